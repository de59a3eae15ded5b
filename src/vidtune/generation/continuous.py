"""Continuous batching: questions join and leave the running batch between two steps, and share what is kept of media.

A thread of its own runs the model. Between two steps it encodes one medium, reads one new prefix, and lets questions
join; so an answer in progress waits for one of these at most.
"""

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from vidtune.errors import PASSED
from vidtune.generation.asking import Progress, Question, not_finite
from vidtune.generation.decoding import Decoding, TokenChooser
from vidtune.generation.engine import MAX_QUESTION_TOKENS
from vidtune.generation.kept import Conversations, Kept, Said, media_ends, prefix_key
from vidtune.generation.limits import key_value_bytes
from vidtune.generation.prompt_tokens import EncodedMedia, PromptTokens
from vidtune.generation.settings import Answer, EngineStats
from vidtune.generation.shared_prefix import Branches, Prefix, check_language_model
from vidtune.generation.stopping import AnswerInProgress
from vidtune.machine.devices import device_memory
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.models.language_model.layer_program import LayerProgram
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Item

_SHARE = 8
"""One part in so many of the kept bytes is for encodings, one for what was said, the others are for prefixes."""


@dataclass(frozen=True)
class _Medium:
    """A medium that waits to be encoded."""

    key: Hashable
    stream: str
    item: Item
    preprocessing: Preprocessing
    future: Future[Tensor]


@dataclass(eq=False)
class _Lane:
    """Questions whose answers are decoded together: those of one layer program."""

    program: LayerProgram
    decoding: Decoding = field(default_factory=Decoding)
    questions: list[Question] = field(default_factory=list)


class ContinuousEngine:
    """Answers questions of many clients with one model. All methods may be called from any thread.

    Greedy answers in float32 equal those of `AnswerEngine`, whatever other questions are under way.

    Args:
        model: the model, on its device and in its precision; it is set to evaluation mode.
        report: called in the engine's thread with the news of every step.
        max_running: largest number of answers in the batch.
        max_kept: bytes of kept prefixes and encodings; None: a quarter of the device's memory.

    Raises:
        UserError: the language model cannot share a prefix.
    """

    def __init__(
        self,
        model: VideoLM,
        report: Callable[[list[Progress]], None],
        *,
        max_running: int = 64,
        max_kept: int | None = None,
    ) -> None:
        check_language_model(model.language_model)
        self.model = model.eval()
        self.max_running = max_running
        self.stats = EngineStats()
        most = device_memory(model.device) // 4 if max_kept is None else max_kept
        self.encodings, self.conversations = Kept(most // _SHARE), Conversations(most // _SHARE)
        self.prefixes = Kept(most - 2 * (most // _SHARE))
        self.failure: BaseException | None = None
        self._report = report
        self._token_bytes = key_value_bytes(model.config.text_config, model.language_model.dtype)
        self._most_stored = device_memory(model.device) // 8 // self._token_bytes
        self._alive: WeakSet[Prefix] = WeakSet()
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._to_encode: deque[_Medium] = deque()
        self._waiting: deque[Question] = deque()
        self._lanes: list[_Lane] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="vidtune-continuous", daemon=True)
        self._thread.start()

    def encode(self, key: Hashable, stream: str, item: Item, preprocessing: Preprocessing) -> Future[Tensor]:
        """Encode a medium and keep the result under its key.

        Args:
            item: its values, as `preprocessing` gave them.
        """
        medium = _Medium(key, stream, item, preprocessing, Future())
        self._calls.put(lambda: self._to_encode.append(medium))
        return medium.future

    def find_prefix(self, question: Question) -> bool:
        """Whether the beginning of a question, up to its last medium, is there; then its media are not needed."""
        question.prefix = self.prefixes.get(question.key) if question.prompt.media_end else None
        question.found = question.prefix is not None
        return question.found

    def ask(self, question: Question) -> None:
        """Let a question wait for its place in the batch; what becomes of it is reported."""
        self._calls.put(lambda: self._waiting.append(question))

    def leave(self, question: Question) -> None:
        """Give up a question; nothing more is reported of it."""
        question.left = True
        self._calls.put(lambda: None)

    def close(self) -> None:
        """Finish all questions that wait or are under way, and stop."""
        self._calls.put(None)
        self._thread.join()

    @property
    def running(self) -> int:
        """Number of answers in the batch."""
        return sum(len(lane.decoding.answers) for lane in self._lanes)

    @property
    def waiting(self) -> int:
        """Number of questions that wait for a place in the batch."""
        return len(self._waiting)

    @property
    def _busy(self) -> bool:
        return bool(self._to_encode or self._waiting or self._lanes)

    @torch.inference_mode()
    def _run(self) -> None:
        """Body of the engine's thread."""
        try:
            while self._busy or not self._closing:
                self._listen()
                self._encode_one()
                self._let_join()
                for lane in list(self._lanes):
                    self._step(lane)
        except BaseException as failure:
            self.failure = failure
            for question in (*self._waiting, *(one for lane in self._lanes for one in lane.questions)):
                self._fail(question, failure)
            for medium in self._to_encode:
                medium.future.set_exception(failure)

    def _listen(self) -> None:
        """Take all calls of other threads; wait for one if there is nothing else to do."""
        try:
            while True:
                call = self._calls.get(block=not self._busy and not self._closing)
                if call is None:
                    self._closing = True
                else:
                    call()
        except Empty:
            return

    def _encode_one(self) -> None:
        if not self._to_encode:
            return
        medium = self._to_encode.popleft()
        try:
            block = self.encodings.get(medium.key)
            if block is None:
                item = medium.item.to(self.model.device).to_float(medium.preprocessing)
                [block] = self.model.encode_items(medium.stream, [item])
                self.stats.encodings += 1
                self.encodings.put(medium.key, block, block.nbytes)
            medium.future.set_result(block)
        except Exception as error:
            medium.future.set_exception(error)

    def _let_join(self) -> None:
        """Start waiting questions for which there is room, in their order; at most one new prefix is read for them."""
        joining: list[Question] = []
        built = False
        for question in list(self._waiting):
            if question.left:
                self._waiting.remove(question)
                continue
            if not self._fits(question, joining):
                break
            new = question.prefix is None and question.prompt.media_end > 0 and not self.find_prefix(question)
            if new and (built or not self._may_read(question)):
                continue
            built = built or new
            self._waiting.remove(question)
            if question.prefix is not None or self._read_prefix(question):
                joining.append(question)
        for group in _startable(joining):
            self._start(group)

    def _fits(self, question: Question, joining: Sequence[Question]) -> bool:
        """Whether there is room for a question beside those that run and those that are about to join."""
        under_way = [*(one for lane in self._lanes for one in lane.questions), *joining, question]
        rows = self.running + sum(one.choices for one in (*joining, question))
        stored = rows * max(one.stored for one in under_way)
        read = sum((len(one.prompt.ids) - one.prompt.media_end) * one.choices for one in (*joining, question))
        fits = rows <= self.max_running and stored <= self._most_stored and read <= MAX_QUESTION_TOKENS
        return fits or len(under_way) == 1

    def _may_read(self, question: Question) -> bool:
        """Whether there is memory for another prefix. Prefixes in use cannot go; what uses them ends at some time."""
        needed = question.prompt.media_end * self._token_bytes
        self.prefixes.make_room(needed)
        others = self._lanes or any(other.prefix is not None for other in self._waiting)
        return not others or sum(prefix.nbytes for prefix in self._alive) + needed <= self.prefixes.most

    def _read_prefix(self, question: Question) -> bool:
        """Read the prefix of a question. False: that failed, which was reported."""
        try:
            question.prefix = self._prefix(question)
            return True
        except Exception as error:
            self._fail(question, error)
            return False

    def _prefix(self, question: Question) -> Prefix:
        prompt, end = question.prompt, question.prompt.media_end
        media = self._media(question, question.blocks)
        shorter, said = (None, None) if media.program else self._shorter(question)
        if shorter is None:
            prefix = Prefix(self.model.language_model, media.tokens([prompt], end=end))
        else:
            begin = shorter.length + (0 if said is None else len(said))
            prefix = shorter.extended(media.tokens([prompt], begin=begin, end=end), said)
        if end:
            self.stats.prefills += 1
            self._alive.add(prefix)
            self.prefixes.put(question.key, prefix, prefix.nbytes)
        return prefix

    def _shorter(self, question: Question) -> tuple[Prefix | None, Said | None]:
        """The longest kept prefix that holds only the first media of a question, and what was said after it."""
        tokens, ends = question.prompt.tokens, media_ends(question.prompt)
        for number in reversed(range(1, len(ends))):
            key = prefix_key(question.prompt, question.media[:number], ends[number - 1])
            if (found := self.prefixes.get(key)) is not None:
                return found, self.conversations.find(key, tokens[:, ends[number - 1] : ends[-1]])
        return None, None

    def _media(self, question: Question, blocks: Iterable[Tensor]) -> EncodedMedia:
        found: dict[str, list[Any]] = {}
        for slot, block in zip(question.prompt.example.media, blocks, strict=True):
            found.setdefault(slot.stream, []).append(block)
        return EncodedMedia(self.model, found)

    def _start(self, questions: list[Question]) -> None:
        """Read what follows the prefix of each question, and let them join those that run under the same program."""
        try:
            parts, prefixes, before = [], [], []
            width = self.model.config.text_config.hidden_size
            for question in questions:
                assert question.prefix is not None
                nothing = self.model.language_model.get_input_embeddings().weight.new_zeros(0, width)
                media = self._media(question, [nothing] * len(question.media))  # all media are in the prefix
                prompt, end = question.prompt, question.prompt.media_end
                said = None if media.program else self.conversations.find(question.key, prompt.tokens[:, end:])
                question.known = 0 if said is None else len(said)
                parts.append(media.tokens([prompt] * question.choices, begin=end + question.known))
                prefixes += [question.prefix] * question.choices
                before += [said] * question.choices
                question.answers = [
                    question.asking.begin(prompt, question.settings, question.told, id=str(choice))
                    for choice in range(question.choices)
                ]
                question.shown = [0] * question.choices
            branches = Branches(prefixes, PromptTokens.together(parts), before)
            program = parts[0].program
            lane = next((lane for lane in self._lanes if lane.program == program), None) or _Lane(program)
            answers = [answer for question in questions for answer in question.answers]
            dtype = self.model.language_model.dtype
            choosers = [TokenChooser(one.settings, dtype) for one in questions for _ in range(one.choices)]
            lane.decoding.join(branches, answers, choosers)
        except Exception as error:
            for question in questions:
                self._fail(question, error)
            return
        lane.questions += questions
        self._lanes += [lane] * (lane not in self._lanes)

    def _step(self, lane: _Lane) -> None:
        """One token for each answer of a lane; reports what is new."""
        decoding = lane.decoding
        try:
            if any(question.left for question in lane.questions):
                gone = {answer for question in lane.questions if question.left for answer in question.answers}
                decoding.keep([answer not in gone for answer in decoding.answers])
                lane.questions = [question for question in lane.questions if not question.left]
            if decoding.answers:
                decoding.choose()
                self._keep_said(lane)
            self._report([news for question in lane.questions for news in self._news(question)])
            decoding.advance()
        except Exception as error:
            for question in lane.questions:
                self._fail(question, error)
            decoding.answers = []
        left = set(decoding.answers)
        lane.questions = [question for question in lane.questions if left.intersection(question.answers)]
        if not lane.questions:
            self._lanes.remove(lane)

    def _keep_said(self, lane: _Lane) -> None:
        """Keep the keys and values of questions whose first answer is finished, for the next turn."""
        for question in lane.questions if not lane.program else ():
            answer = question.answers[0]
            if answer.finish_reason not in (None, "error") and answer in lane.decoding.answers:
                self.conversations.put(question.key, Said(question.said(answer), lane.decoding.said(answer)))

    def _news(self, question: Question) -> Iterable[Progress]:
        for choice, answer in enumerate(question.answers):
            if question.shown[choice] < 0:
                continue
            finished = answer.finish_reason is not None
            if not (finished or question.grows):
                continue
            text, begin = answer.shown_text(), question.shown[choice]
            logprobs = answer.token_logprobs[:]
            if question.grows:
                answer.token_logprobs.clear()
            question.shown[choice] = -1 if finished else max(begin, len(text))
            if finished or len(text) > begin or logprobs:
                yield Progress(question, choice, text[begin:], logprobs, self._finished(answer) if finished else None)

    def _finished(self, answer: AnswerInProgress) -> Answer:
        if answer.finish_reason == "error":
            return Answer.failed(answer.id, not_finite(self.model, len(answer.token_ids), ()))
        self.stats.questions += 1
        self.stats.new_tokens += len(answer.token_ids)
        return answer.answer()

    def _fail(self, question: Question, error: BaseException) -> None:
        """Report that a question has no answer, because of the machine or a fault of ours."""
        known = any(base.__name__ in PASSED for base in type(error).__mro__)
        reason = "the machine has no memory left for this question" if known else f"{type(error).__name__}: {error}"
        self._report([Progress(question, 0, answer=Answer.failed("0", reason, open=True))])


def _startable(questions: Sequence[Question]) -> list[list[Question]]:
    """Questions in groups that can start together: of one program, and of one prefix where it is open."""
    groups: dict[Hashable, list[Question]] = {}
    for question in questions:
        assert question.prefix is not None
        streams = frozenset(slot.stream for slot in question.prompt.example.media)
        groups.setdefault((streams, question.prefix if question.prefix.opened is not None else None), []).append(
            question
        )
    return list(groups.values())
