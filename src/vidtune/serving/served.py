"""A served model: answers of one model, piece by piece."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from vidtune.data.sample import MediaRef, Turn
from vidtune.errors import UserError
from vidtune.generation.engine import AnswerEngine
from vidtune.generation.settings import Answer, GenerationSettings, Request
from vidtune.models.video_lm import VideoLM
from vidtune.processing.processor import VideoLMProcessor
from vidtune.registry import SYSTEMS
from vidtune.serving.problems import ApiProblem


@dataclass(frozen=True)
class ServedModel:
    """A model under the name by which requests ask for it."""

    name: str
    network: VideoLM
    processor: VideoLMProcessor
    media_timeout: float = 60.0

    @property
    def prompt(self) -> str:
        """Name of the prompt format for answering."""
        return SYSTEMS[self.processor.system].dialect.answering_prompt

    async def pieces(
        self, turns: list[Turn], media: tuple[MediaRef, ...], settings: GenerationSettings, prompt: str
    ) -> AsyncIterator[str | Answer]:
        """Yields the text of an answer piece by piece, then the answer. Raises ApiProblem if there is none."""
        loop, found = asyncio.get_running_loop(), asyncio.Queue[Any]()
        gone = threading.Event()

        def put(piece: Any) -> None:
            loop.call_soon_threadsafe(found.put_nowait, piece)

        def run() -> None:
            try:
                with AnswerEngine(
                    self.network, self.processor, settings, prompt=prompt, media_timeout=self.media_timeout
                ) as engine:
                    steps = engine.stream(Request("0", media, turns[-1].text, tuple(turns[:-1])))
                    while not gone.is_set():
                        put(next(steps))
            except StopIteration as end:
                put(end.value)
            except BaseException as error:
                put(error)

        threading.Thread(target=run, daemon=True).start()
        try:
            while True:
                piece = await found.get()
                if isinstance(piece, UserError):
                    raise ApiProblem(400, str(piece))
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
                if isinstance(piece, Answer):
                    return
        finally:
            gone.set()
