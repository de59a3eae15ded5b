"""Chat messages as turns of a conversation: where the tags of media stand in the text."""

from collections.abc import Sequence
from dataclasses import dataclass

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Turn
from vidtune.errors import UserError
from vidtune.processing.processor import VideoLMProcessor
from vidtune.processing.prompts.placing import media_tags
from vidtune.serving.problems import ApiProblem
from vidtune.serving.wire import Medium, Message, Part

STREAMS = {"image_url": "image", "video_url": "video"}
"""Type of a part of a message -> stream that reads it."""


@dataclass(frozen=True)
class AskedMedium:
    """A medium of a request: its stream, where it is, and where in the request it stands."""

    stream: str
    medium: Medium
    where: str


def media_of(messages: Sequence[Message]) -> list[AskedMedium]:
    """Returns the media of all messages in order.

    Raises:
        ApiProblem: a part without what its type says, or a medium in a message that is not the user's.
    """
    found = []
    for number, message in enumerate(messages):
        for place, part in enumerate(message.parts):
            where = f"messages[{number}].content[{place}]"
            medium = medium_of(part, where)
            if medium is None:
                continue
            if message.role != "user":
                raise ApiProblem(400, f"{where}: media stand in messages of the user", param=where)
            found.append(medium)
    return found


def medium_of(part: Part, where: str) -> AskedMedium | None:
    """Returns the medium of a part; None: it is a text. Raises ApiProblem for a part without what its type says."""
    if not part.complete:
        raise ApiProblem(400, f"{where}: a part of type {part.type!r} holds {part.type} alone", param=where)
    return None if part.medium is None else AskedMedium(STREAMS[part.type], part.medium, where)


def turns_of(messages: Sequence[Message], processor: VideoLMProcessor, prompt: str, id: str) -> list[Turn]:
    """Returns the turns of a conversation, the last of which is the question.

    A text that holds as many tags ``<video>`` and ``<image>`` as its message has media says where they stand. Media
    before the text stand where the prompt format of the model puts them, as in :class:`Conversation`; other media where
    they stand in the message.

    Raises:
        ApiProblem: the last message is not the user's, or a question is empty.
    """
    turns = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if message.role in ("system", "developer"):
            if number:
                raise ApiProblem(400, f"{where}: a message of the system comes first", param=where)
            turns.append(Turn("system", _text(message.parts)))
        elif message.role == "assistant":
            turns.append(Turn("assistant", _text(message.parts)))
        else:
            try:
                turns.append(_asked(message.parts, processor, prompt, id))
            except (SampleProblem, UserError) as problem:
                raise ApiProblem(400, f"{where}: {problem}", param=where) from None
    if turns[-1].role != "user":
        raise ApiProblem(400, "the last message is not the user's: there is no question", param="messages")
    if not _text(messages[-1].parts).strip():
        raise ApiProblem(400, "the question is empty; ask something", param=f"messages[{len(messages) - 1}]")
    return turns


def _asked(parts: Sequence[Part], processor: VideoLMProcessor, prompt: str, id: str) -> Turn:
    streams = [STREAMS[part.type] for part in parts if part.type in STREAMS]
    text = _text(parts)
    if not streams or [tag[1] for tag in media_tags(text, ("video", "image"))] == streams:
        return Turn("user", text)
    if all(part.type == "text" for part in parts[len(streams) :]) and text.strip():
        [turn] = processor.with_tags([Turn("user", text)], streams, prompt, id)
        return turn
    return Turn("user", "".join(f"<{STREAMS[part.type]}>" if part.text is None else part.text for part in parts))


def _text(parts: Sequence[Part]) -> str:
    return "".join(part.text or "" for part in parts)
