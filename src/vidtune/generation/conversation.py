"""Conversations: every question is asked with all earlier turns and their media."""

from collections.abc import Generator, Sequence

from vidtune.data.sample import MediaRef, Turn
from vidtune.errors import UserError
from vidtune.generation.engine import AnswerEngine
from vidtune.generation.settings import Answer, Request


class Conversation:
    """A conversation with a model about media.

    Keeps the turns and asks the engine again with all of them: an answer equals the answer to one request with the same
    media, history and id. A question that cannot be answered leaves the conversation as it was.

    Args:
        engine: answers the questions.
        id: name of the conversation. The k-th question (from 0) is asked as request ``{id}-{k}``, which seeds sampling.

    Attributes:
        turns: turns so far, user and assistant in alternation. User turns contain the tags of their media.
        media: media of all turns, in the order of their tags.
    """

    def __init__(self, engine: AnswerEngine, id: str = "conversation") -> None:
        self.engine = engine
        self.id = id
        self.turns: tuple[Turn, ...] = ()
        self.media: tuple[MediaRef, ...] = ()

    def ask(self, question: str, media: Sequence[MediaRef] = ()) -> Answer:
        """Answer a question and append both to the conversation.

        Args:
            question: text of the question. Tags such as ``<video>`` say where its media belong; without tags, the
                prompt format says where they stand.
            media: files that are new in this turn; media of earlier turns stay part of the conversation.

        Raises:
            UserError: the question cannot be answered.
        """
        request = self.request(question, media)
        [answer] = self.engine.answer([request])
        if answer.error is not None:
            raise UserError(answer.error)
        self._append(request, answer)
        return answer

    def stream(self, question: str, media: Sequence[MediaRef] = ()) -> Generator[str, None, Answer]:
        """As :meth:`ask`, but yields the text of the answer piece by piece; the generator returns the answer.

        The turn is appended when the generator has ended. If it is closed earlier, the turn is lost.

        Raises:
            UserError: the question cannot be answered; raised before the first piece.
        """
        request = self.request(question, media)
        answer = yield from self.engine.stream(request)
        self._append(request, answer)
        return answer

    def request(self, question: str, media: Sequence[MediaRef] = ()) -> Request:
        """The request that asks a question after the turns so far."""
        id = f"{self.id}-{len(self.turns) // 2}"
        if media and question.strip():
            turn = Turn("user", question)
            [turn] = self.engine.processor.with_tags([turn], [ref.stream for ref in media], self.engine.prompt, id)
            question = turn.text
        return Request(id, (*self.media, *media), question, self.turns)

    def _append(self, request: Request, answer: Answer) -> None:
        self.turns = (*self.turns, Turn("user", request.question), Turn("assistant", answer.text))
        self.media = request.media
