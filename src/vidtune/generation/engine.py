"""The answer engine: requests about media in, answers out; the shared part of the prompts is computed once."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import isfinite
from types import TracebackType
from typing import Any, Protocol, Self, cast

import numpy as np
import torch
from torch import Tensor

from vidtune.data.sample import MediaRef
from vidtune.errors import UnreadMediaError, UserError
from vidtune.generation.asking import Asking, not_finite
from vidtune.generation.decoding import SinglePrompt, TokenChooser, decode_steps
from vidtune.generation.grouping import MediaGroup, Prompt, common_length, group_by_media
from vidtune.generation.likelihood import likelihoods_alone, option_likelihoods, predicted_tokens
from vidtune.generation.limits import key_value_bytes
from vidtune.generation.prompt_tokens import EncodedMedia, media_tokens
from vidtune.generation.settings import Answer, EngineStats, GenerationSettings, Request
from vidtune.generation.shared_prefix import Branches, Prefix, check_language_model
from vidtune.generation.stopping import AnswerInProgress
from vidtune.machine.devices import device_memory
from vidtune.media.kept.place import DecodedFolder
from vidtune.media.pool import LoadJob, LoadResult, MediaPool
from vidtune.media.preprocessing.kinds import as_read
from vidtune.models.language_model.call_plan import LayerCallPlan, plan_call
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Example, Item, MediaSlot, pack
from vidtune.processing.processor import VideoLMProcessor

MAX_QUESTION_TOKENS = 8192
"""Largest number of question tokens in one forward pass; limits the memory of activations."""
READY_GROUPS = 4
"""Number of groups without a file to load that are taken ahead."""


class Features(Protocol):
    """Interface of stored features of towers; `features.answering` implements it."""

    def find(self, ref: MediaRef) -> Tensor | None:
        """Returns the features of a medium as the connector of its stream takes them; None: there are none."""

    def key(self, ref: MediaRef) -> str | None:
        """Returns the name of a medium in the store; None: its features are not stored."""

    def encode(self, ref: MediaRef, key: str, array: np.ndarray, extras: Mapping[str, np.ndarray] | None) -> Tensor:
        """Returns the features of a medium that was read, and stores them under its name."""

    def close(self) -> None:
        """Write what is not written yet."""


class AnswerEngine:
    """Answers requests with a video language model.

    Requests about the same media are answered together: the files are decoded and encoded once, the common beginning of
    the prompts is run through the language model once, and the questions continue it as batches. So media before the
    question pass through the language model once, media after it once for every question. In float32 the tokens equal
    those of answering every request alone; in lower precision rounding may differ. The files of the next groups are
    decoded in the meantime.

    Several engines, each in its own thread, may use one model and one processor. One engine serves one thread.

    Args:
        model: the model, on its device and in its precision; it is set to evaluation mode.
        processor: processor of the model.
        settings: how answers are decoded.
        prompt: name of one of the processor's prompt formats.
        workers: number of processes that decode media; 0 decodes in this process, without a time limit.
        media_timeout: seconds that reading one file may take.
        max_batch_questions: largest number of questions in one batch. A batch has fewer questions when they are long,
            or when their keys and values would take more than an eighth of the device's memory.
        share_prefix: False answers every request alone, starting from decoding its media; used for comparison.
        window: number of requests that are grouped at a time; None: those next to each other about the same media.
        layer_program: layer program by which this engine runs the model; None: that of the model's config.
        processes: number of processes on this machine that have such an engine and share the memory.
        stored: features that are read in the place of files, and kept of those that are not there; None: of no file.
            The engine closes it.
        decoded: where decoded media are kept and found again, unless their features are; None: nowhere.

    Raises:
        UserError: the prompt format does not exist, the language model cannot share a prefix, or the layer program
            cannot be read.
    """

    def __init__(
        self,
        model: VideoLM,
        processor: VideoLMProcessor,
        settings: GenerationSettings,
        *,
        prompt: str,
        workers: int = 1,
        media_timeout: float = 60.0,
        max_batch_questions: int = 64,
        share_prefix: bool = True,
        window: int | None = 1024,
        layer_program: Sequence[Mapping[str, Any]] | None = None,
        processes: int = 1,
        stored: Features | None = None,
        decoded: DecodedFolder | None = None,
    ) -> None:
        if share_prefix:
            check_language_model(model.language_model)
        self.model = model.eval()
        self.processor = processor.measuring(model.config.measures())
        self.settings = settings
        self.prompt = prompt
        self.max_batch_questions = max_batch_questions
        self.share_prefix = share_prefix
        self.program = (
            model.program if layer_program is None else model.prepared(model.config.read_program(layer_program))
        )
        self.window = window
        self.stats = EngineStats()
        self._chooser = TokenChooser(settings, model.language_model.dtype)
        self._asking = Asking(model, processor, prompt)
        self.stored = stored
        self._seen_media: set[MediaRef] = set()
        self._seen_prefixes: set[int] = set()
        self._pool = MediaPool(workers, media_timeout, processes=processes, decoded=decoded, find_here=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the decoding processes, and write features that wait for the disk."""
        self._pool.close()
        if self.stored is not None:
            self.stored.close()

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Answer every request, grouped by media: groups in the order of their first request, requests as given.

        A request that cannot be answered (empty question, unreadable or hanging file, too long for the model) gets an
        answer with ``error`` set; the other requests are still answered.
        """
        groups = group_by_media(map(self._prepare, requests), self.window, self.share_prefix)
        for group in self._loaded(groups):
            yield from group.refused
            if group.error is not None:
                reason, is_open = str(group.error), isinstance(group.error, UnreadMediaError)
                yield from (Answer.failed(prompt.example.id, reason, is_open) for prompt in group.prompts)
            elif self.share_prefix:
                yield from self._answer_group(group)
            else:
                for prompt in group.prompts:
                    yield from self._answer_alone(prompt, self._encode(group))

    def stream(self, request: Request) -> Generator[str, None, Answer]:
        """Yields the text of one answer piece by piece, as soon as no later token can change it.

        Joined, the pieces are the text of the :class:`Answer`, which is the return value of the generator. No piece
        contains a stop text or its beginning.

        Raises:
            UserError: the request cannot be answered; raised before the first piece. Or the logits are not finite from
                some token on.
        """
        prepared = self._prepare(request)
        if isinstance(prepared, Answer):
            raise UserError(prepared.error)
        [group] = self._loaded(group_by_media([prepared], 1))
        if group.error is not None:
            raise group.error
        answer, media, shown = self._begin(prepared), self._encode(group), ""
        for _ in self._steps_alone(media, prepared, answer):
            text = answer.shown_text()
            if answer.finish_reason != "error" and len(text) > len(shown):
                yield text[len(shown) :]
                shown = text
        finished = self._finished(answer, media)
        if finished.error is not None:
            raise UserError(finished.error)
        return finished

    def _prepare(self, request: Request) -> Prompt | Answer:
        return self._asking.prepare(request, self.settings)

    def _loaded(self, groups: Iterator[MediaGroup]) -> Iterator[MediaGroup]:
        """Groups with their loaded media, in order; meanwhile the pool loads the files of the next groups."""
        waiting: deque[MediaGroup] = deque()
        more = True

        def jobs() -> Iterator[LoadJob]:
            nonlocal more
            for group in groups:
                missing = group.find(self._find)
                waiting.append(group)
                for ref in missing:
                    steps = as_read(self.processor.streams[ref.stream].preprocessing, ref.among, ref.part)
                    keep = self.stored is None or self.stored.key(ref) is None
                    yield LoadJob(ref.path, steps, extras=ref.extras, frames=ref.frames, part=ref.part, keep=keep)
                if len(waiting) >= READY_GROUPS and all(one.complete for one in waiting):
                    return  # nothing is being loaded: answer these before more are taken
            more = False

        while more:
            for result in self._pool.load(jobs()):
                while waiting[0].complete:
                    yield waiting.popleft()
                group = waiting[0]
                group.add(result)
                self.stats.media_loaded += result.error is None and not result.found
                self.stats.decoded_found += result.found
                if group.complete:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()

    def _answer_group(self, group: MediaGroup) -> Iterator[Answer]:
        media = self._encode(group)
        for prompts in group.by_prefix():
            shared = common_length(prompts)
            prefix = Prefix(self.model.language_model, media.tokens(prompts[:1], end=shared))
            self._count_prefix(group, prompts[0].ids[:shared])
            for batch in self._batches(prompts, shared, prefix):
                branches = Branches(prefix, media.tokens(batch, begin=shared))
                if batch[0].options:
                    found = option_likelihoods(branches, [[ids for _, ids in prompt.options] for prompt in batch])
                    yield from (self._most_likely(*pair, media) for pair in zip(batch, found, strict=True))
                elif batch[0].forced:
                    said = predicted_tokens(branches, [prompt.forced for prompt in batch])
                    yield from (self._predicted(*pair, media) for pair in zip(batch, said, strict=True))
                else:
                    answers = [self._begin(prompt) for prompt in batch]
                    yield from self._finish(answers, decode_steps(branches, answers, self._chooser), media)

    def _answer_alone(self, prompt: Prompt, media: EncodedMedia) -> Iterator[Answer]:
        if prompt.kind == "text":
            answer = self._begin(prompt)
            yield from self._finish([answer], self._steps_alone(media, prompt, answer), media)
            return
        tokens = media.tokens([prompt])
        if prompt.forced:
            self.stats.prefills += 1
            [said] = predicted_tokens(SinglePrompt(self.model.language_model, tokens), [prompt.forced])
            yield self._predicted(prompt, said, media)
            return
        options = [ids for _, ids in prompt.options]
        self.stats.prefills += len(options)
        found = likelihoods_alone(lambda: SinglePrompt(self.model.language_model, tokens), options)
        yield self._most_likely(prompt, found, media)

    def _steps_alone(self, media: EncodedMedia, prompt: Prompt, answer: AnswerInProgress) -> Iterator[None]:
        tokens = media.tokens([prompt])
        self._count_prefix(prompt.example, prompt.ids)
        return decode_steps(SinglePrompt(self.model.language_model, tokens), [answer], self._chooser)

    @torch.inference_mode()
    def _encode(self, group: MediaGroup) -> EncodedMedia:
        """The media of a group, encoded; every prompt of the group has the same."""
        return EncodedMedia(self.model, self._items(group) if group.prompts else {}, self.program)

    def _items(self, group: MediaGroup) -> dict[str, list[Item]]:
        """The media of a group by stream, on the device and as the towers take them."""
        example = group.prompts[0].example
        batch = pack(
            [example], [list(map(partial(self._item, example.id), example.media, group.loaded, group.features))]
        )
        return batch.to(self.model.device).to_float(self.processor.preprocessing).media

    def _item(self, sample: str, slot: MediaSlot, loaded: LoadResult | None, features: Tensor | None) -> Item:
        """A medium as the model takes it: its values, or features that were found or are kept now."""
        if features is not None:
            return slot.item(features.clone(), sample, encoded=True)
        assert loaded is not None
        array = cast(np.ndarray, loaded.array)
        self.stats.encodings += not slot.encoded
        key = None if self.stored is None or slot.encoded else self.stored.key(slot.ref)
        if self.stored is None or key is None:
            return slot.item(array, sample, loaded.extras)
        kept = self.stored.encode(slot.ref, key, array, loaded.extras)
        return slot.item(kept, sample, loaded.extras, encoded=True)

    def _find(self, ref: MediaRef) -> Tensor | None:
        features = None if self.stored is None else self.stored.find(ref)
        self.stats.features_found += features is not None
        self._seen_media.add(ref)
        self.stats.media = len(self._seen_media)
        return features

    def _count_prefix(self, about: "MediaGroup | Example", ids: np.ndarray) -> None:
        """Count a prefill, and the beginning of a prompt if it is a new one."""
        media = about.media if isinstance(about, MediaGroup) else tuple(slot.ref for slot in about.media)
        self._seen_prefixes.add(hash((media, ids.tobytes())))
        self.stats.prefills += 1
        self.stats.prefixes = len(self._seen_prefixes)

    def _begin(self, prompt: Prompt) -> AnswerInProgress:
        return self._asking.begin(prompt, self.settings)

    def _finish(self, answers: list[AnswerInProgress], steps: Iterator[None], media: EncodedMedia) -> Iterator[Answer]:
        for _ in steps:
            pass
        return (self._finished(answer, media) for answer in answers)

    def _finished(self, answer: AnswerInProgress, media: EncodedMedia) -> Answer:
        """The finished answer, counted; if its logits were not finite, an answer with the likely causes."""
        if answer.finish_reason == "error":
            return Answer.failed(answer.id, not_finite(self.model, len(answer.token_ids), media.not_finite()))
        self.stats.questions += 1
        self.stats.new_tokens += len(answer.token_ids)
        return answer.answer()

    def _most_likely(self, prompt: Prompt, likelihoods: Sequence[float], media: EncodedMedia) -> Answer:
        """The answer of a prompt whose options are compared: the first of the most likely ones."""
        if not all(map(isfinite, likelihoods)):
            return Answer.failed(prompt.example.id, not_finite(self.model, 0, media.not_finite()))
        self.stats.questions += 1
        text, ids = prompt.options[max(range(len(likelihoods)), key=likelihoods.__getitem__)]
        return Answer(
            prompt.example.id, text, ids, "option", likelihoods=tuple(likelihoods), untrained=prompt.untrained
        )

    def _predicted(self, prompt: Prompt, tokens: list[int] | None, media: EncodedMedia) -> Answer:
        """The answer of a prompt whose answer is given: the text of the tokens that the model holds for most likely."""
        if tokens is None:
            return Answer.failed(prompt.example.id, not_finite(self.model, 0, media.not_finite()))
        self.stats.questions += 1
        self.stats.new_tokens += len(tokens)
        text = self.processor.decode(tokens).strip()
        return Answer(prompt.example.id, text, tuple(tokens), "forced", untrained=prompt.untrained)

    def _batches(self, prompts: list[Prompt], shared: int, prefix: Prefix) -> Iterator[list[Prompt]]:
        """Batches of questions of one kind: generated, given, or with options, each of which is one of the batch."""
        for kind in dict.fromkeys(prompt.kind for prompt in prompts):
            yield from self._batches_alike([prompt for prompt in prompts if prompt.kind == kind], shared, prefix)

    def _batches_alike(self, prompts: list[Prompt], shared: int, prefix: Prefix) -> Iterator[list[Prompt]]:
        plans = [self._plan(prompt, shared, prefix) for prompt in prompts]
        longest = max(count for plan in plans for [count] in plan.counts)
        stored = max(plan.mean_tokens() for plan in plans) + max(prompt.max_new_tokens for prompt in prompts)
        bytes_each = stored * key_value_bytes(self.model.config.text_config, self.model.language_model.dtype)
        in_memory = int(device_memory(self.model.device) // 8 // bytes_each)
        copies = max((len(prompt.options) for prompt in prompts), default=0) or 1
        size = max(1, min(self.max_batch_questions, in_memory, MAX_QUESTION_TOKENS // longest) // copies)
        for begin in range(0, len(prompts), size):
            yield prompts[begin : begin + size]

    def _plan(self, prompt: Prompt, shared: int, prefix: Prefix) -> LayerCallPlan:
        """What the layer program does with a question, whose keys and values are stored beside those of the prefix."""
        program = self.program.of_streams({slot.stream for slot in prompt.example.media})
        media = media_tokens([prompt], slice(shared, None)) if program else ()
        return plan_call(program, [len(prompt.ids) - shared], media, prefix=prefix.opened)
