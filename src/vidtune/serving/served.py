"""A served model: its engine, and the way of a request to it, from turns and media to news of the answers."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Hashable, Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from vidtune.data.sample import MediaRef, Turn
from vidtune.generation.asking import NO_ROOM, Asking, Progress, Question
from vidtune.generation.continuous import ContinuousEngine
from vidtune.generation.settings import Answer, GenerationSettings, Request
from vidtune.media.pool import LoadJob
from vidtune.media.preprocessing.kinds import as_read
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import MediaSlot
from vidtune.processing.processor import VideoLMProcessor
from vidtune.registry import SYSTEMS
from vidtune.serving.boxes import with_boxes
from vidtune.serving.facts import facts_of
from vidtune.serving.loading import MediaLoader
from vidtune.serving.media import TakenMedium
from vidtune.serving.problems import ApiProblem

ID = "0"
"""Id of every request, as that of one question of `vidtune answer`: equal seeds draw equal answers."""


class ServedModel:
    """A model under the name by which requests ask for it. `open` starts it, `close` ends it.

    Args:
        max_running: largest number of answers in the running batch.
        max_kept: bytes of what is kept of media between questions; None: a quarter of the device's memory.
    """

    def __init__(
        self,
        name: str,
        network: VideoLM,
        processor: VideoLMProcessor,
        *,
        media_timeout: float = 60.0,
        max_running: int = 64,
        max_kept: int | None = None,
    ) -> None:
        self.name, self.network, self.processor = name, network, processor
        self.media_timeout, self.max_running, self.max_kept = media_timeout, max_running, max_kept
        self.asking = lru_cache(maxsize=32)(lambda prompt: Asking(network, processor, prompt))
        self._queues: dict[Question, asyncio.Queue[Progress]] = {}
        self._loading: dict[Hashable, asyncio.Task[Tensor]] = {}

    def open(self, loader: MediaLoader) -> None:
        """Start the engine; called in the event loop that serves requests."""
        self._loader, self._loop = loader, asyncio.get_running_loop()
        self.engine = ContinuousEngine(self.network, self._report, max_running=self.max_running, max_kept=self.max_kept)

    def close(self) -> None:
        """Finish the answers in flight, and end the engine."""
        self.engine.close()

    @property
    def prompt(self) -> str:
        """Name of the prompt format for answering."""
        return SYSTEMS[self.processor.system].dialect.answering_prompt

    @property
    def facts(self) -> dict[str, Any]:
        """What a client can know of the model, see `facts_of`."""
        return facts_of(self.processor)

    async def question(
        self, turns: Sequence[Turn], media: Sequence[TakenMedium], settings: GenerationSettings, prompt: str, **how: Any
    ) -> Question:
        """Returns a question that can be asked: its media are read and encoded, or their prefix is there.

        Args:
            how: ``choices``, ``told`` and ``grows`` of `Question`.

        Raises:
            ApiProblem: a medium that cannot be read, or a prompt that the model does not take.
        """
        for one in media:
            await self._loader.check(one)
        refs = await with_boxes(turns, media, self.processor, self._loader)
        asking = self.asking(prompt)
        request = Request(ID, refs, turns[-1].text, tuple(turns[:-1]))
        prepared = await asyncio.to_thread(asking.prepare, request, settings)
        if isinstance(prepared, Answer):
            code = "context_length_exceeded" if NO_ROOM in (prepared.error or "") else None
            raise ApiProblem(400, _as_said(prepared.error or "", media), code=code, param="messages")
        taken = {one.ref.path: one for one in media}
        slots = prepared.example.media
        keys = tuple(_key(slot, taken[slot.ref.path]) for slot in slots)
        question = Question(asking, prepared, keys, settings, **how)
        if not self.engine.find_prefix(question):
            loading = [self._block(slot, key, taken[slot.ref.path]) for slot, key in zip(slots, keys, strict=True)]
            question.blocks = await asyncio.gather(*loading)
        return question

    async def answers(self, question: Question) -> AsyncGenerator[Progress, None]:
        """Yields the news of all answers of a question, until they are finished; leaves its place if it is closed.

        Raises:
            ApiProblem: there is no answer.
        """
        queue = self._queues[question] = asyncio.Queue()
        left = question.choices
        self.engine.ask(question)
        try:
            if self.engine.failure is not None:
                raise ApiProblem(500, f"the model has stopped: {self.engine.failure}", code="model_stopped")
            while left:
                news = await queue.get()
                if news.answer is not None and news.answer.error is not None:
                    raise ApiProblem(500, news.answer.error, code="no_answer")
                left -= news.answer is not None
                yield news
        finally:
            del self._queues[question]
            if left:
                self.engine.leave(question)

    def _report(self, news: list[Progress]) -> None:
        """Called in the engine's thread."""
        if news:
            self._loop.call_soon_threadsafe(self._deliver, news)

    def _deliver(self, news: list[Progress]) -> None:
        for one in news:
            if (queue := self._queues.get(one.question)) is not None:
                queue.put_nowait(one)

    async def _block(self, slot: MediaSlot, key: Hashable, taken: TakenMedium) -> Tensor:
        """The encoding of a medium: kept, or read and encoded once for all requests that ask for it at a time."""
        found = self.engine.encodings.get(key)
        if found is not None:
            return found
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._encoded(slot, key, taken))
            task.add_done_callback(lambda done: self._loaded(key, done))
        return await asyncio.shield(task)

    def _loaded(self, key: Hashable, task: asyncio.Task[Tensor]) -> None:
        del self._loading[key]
        if not task.cancelled():
            task.exception()  # seen, also where everybody who asked has gone

    async def _encoded(self, slot: MediaSlot, key: Hashable, taken: TakenMedium) -> Tensor:
        ref = slot.ref
        steps = as_read(self.processor.streams[ref.stream].preprocessing, ref.among, ref.part)
        job = LoadJob(ref.path, steps, extras=ref.extras, frames=ref.frames, part=ref.part)
        result = await self._loader.load(job, taken.where, taken.said)
        self.engine.stats.media_loaded += 1
        assert result.array is not None
        item = slot.item(result.array, ID, result.extras)
        preprocessing = self.processor.preprocessing[ref.stream]
        return await asyncio.wrap_future(self.engine.encode(key, ref.stream, item, preprocessing))


def _key(slot: MediaSlot, taken: TakenMedium) -> Hashable:
    """What makes two media equal: their content, and how it is read."""
    ref: MediaRef = dataclasses.replace(slot.ref, path=taken.identity)
    return ref, slot.num_tokens


def _as_said(message: str, media: Sequence[TakenMedium]) -> str:
    """A message without paths of this machine."""
    for one in media:
        message = message.replace(one.ref.path, one.said)
    return message
