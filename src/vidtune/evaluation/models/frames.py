"""Frames of the videos of questions, decoded once per video, for models that bring a processor of their own.

Legend: T frames of one medium, H and W pixels.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, ValidationError

from vidtune.data.sample import MediaRef
from vidtune.errors import MediaError, UnreadMediaError, UserError
from vidtune.evaluation.protocol import Protocol
from vidtune.generation.settings import EngineStats, Request
from vidtune.media.pool import LoadJob, LoadResult, MediaPool
from vidtune.media.preprocessing.kinds import as_read
from vidtune.media.preprocessing.raw_frames import RawFrames
from vidtune.media.probe import MediaInfo

Given = Literal["video", "images"]
"""How the frames of a video reach the model: as one video, or as pictures one after the other."""
STREAMS = ("video", "image")
"""Streams that a model with a processor of its own can be asked about."""


class FrameRule(RawFrames):
    """Rules of the frames that a model is given; `Protocol.preprocessing` of such a model.

    Args:
        given: see `Given`.
        quality: quality of JPEG from 1 to 100 in which frames are sent to an endpoint.
    """

    given: Given = "video"
    quality: int = Field(default=0, ge=0, le=100)

    @classmethod
    def read_rules(cls, protocol: Protocol) -> Self:
        """Returns the rules of a protocol. Raises UserError for one that does not exist, or a value of a wrong type."""
        try:
            return cls.model_validate(protocol.preprocessing)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            known = ", ".join(name for name in RULES if name in cls.model_fields)
            raise UserError(
                f"{protocol.benchmark}: preprocessing.{key}: {first['msg']}; rules of this model: {known}"
            ) from None

    def stored(self) -> dict[str, Any]:
        """Returns the rules as they are stored in a protocol."""
        values = self.model_dump(mode="json", include=set(RULES))
        return {key: value for key, value in values.items() if key in ALWAYS or value != RULE_DEFAULTS[key]}

    def of_stream(self, stream: str, blind: bool) -> RawFrames:
        """Returns what reads the media of a stream."""
        values = self.model_dump(include=set(RawFrames.model_fields) - {"kind"})
        return RawFrames(**{**values, "picture": stream == "image", "blind": blind})


RULES = ("kind", "given", "num_frames", "min_frames", "multiple_of", "sampling", "max_side", "quality")
ALWAYS = ("kind", "given", "num_frames", "sampling")
RULE_DEFAULTS: dict[str, Any] = {name: FrameRule.model_fields[name].default for name in RULES}


@dataclass(frozen=True)
class SampledFrames:
    """The frames of one medium that a model is given.

    Args:
        frames: uint8 RGB (T, H, W, 3); one frame of a picture.
        picture: it is a picture, not a video.
        indices: places of the frames in the clip.
        info: metadata of the clip.
    """

    frames: np.ndarray
    picture: bool
    indices: tuple[int, ...]
    info: MediaInfo

    @property
    def fps(self) -> float:
        """Frames per second of the clip; 1 where it is not known, as of a folder of pictures."""
        return self.info.fps or 1.0

    @property
    def seconds(self) -> list[float]:
        """Second of the clip at which each frame is shown, at an even frame rate."""
        return [index / self.fps for index in self.indices]

    @property
    def duration(self) -> float:
        """Seconds of the clip."""
        return self.info.duration or self.info.num_frames / self.fps


@dataclass
class QuestionGroup:
    """Questions about the same media.

    Args:
        requests: the questions, in the order of the test set.
        shown: the media in the order of the requests' ``media``; filled while files are read.
        error: why they cannot be asked; None: they can.
        open: it is a reason of the machine, see `Answer`.
        waiting: number of jobs of these media that are not done.
        info: metadata of the medium that was read last.
    """

    requests: tuple[Request, ...]
    shown: list[SampledFrames] = field(default_factory=list)
    error: str | None = None
    open: bool = False
    waiting: int = 0
    info: MediaInfo | None = None


class FrameReader:
    """Reads the media of questions, each once for all questions about it that follow each other.

    Args:
        blind: black frames.
        workers, timeout: see `MediaPool`.
        stats: counts what is read.
    """

    def __init__(self, rule: FrameRule, blind: bool, workers: int, timeout: float, stats: EngineStats) -> None:
        self._steps: Mapping[str, Any] = {stream: rule.of_stream(stream, blind) for stream in STREAMS}
        self._stats = stats
        self._pool = MediaPool(workers, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.close()

    def groups(self, requests: Iterable[Request]) -> Iterator[QuestionGroup]:
        """Yields the requests with what they are about, in their order; meanwhile the next media are read."""
        waiting: deque[QuestionGroup] = deque()

        def jobs() -> Iterator[LoadJob]:
            for media, group in groupby(requests, key=lambda request: request.media):
                waiting.append(QuestionGroup(tuple(group), error=_problem(media)))
                if waiting[-1].error is not None:
                    continue
                waiting[-1].waiting = 2 * len(media)
                for ref in media:
                    yield LoadJob(ref.path, None, part=ref.part)
                    yield LoadJob(ref.path, as_read(self._steps[ref.stream], part=ref.part), part=ref.part)

        for result in self._pool.load(jobs()):
            while not waiting[0].waiting:
                yield waiting.popleft()
            self._add(waiting[0], result)
            if not waiting[0].waiting:
                yield waiting.popleft()
        yield from waiting

    def _add(self, group: QuestionGroup, result: LoadResult) -> None:
        group.waiting -= 1
        if group.error is None and result.error is not None:
            group.error, group.open = str(result.error), isinstance(result.error, UnreadMediaError)
        if result.job.preprocessing is None:
            group.info = result.info
        elif group.error is None and result.array is not None and group.info is not None:
            steps: Any = result.job.preprocessing
            asked = [] if result.job.part is None else result.job.part.chosen(group.info.times)
            indices = tuple(asked or steps.frame_indices(group.info))
            group.shown.append(SampledFrames(result.array, steps.picture, indices, group.info))
            self._stats.media_loaded += 1


def _problem(media: tuple[MediaRef, ...]) -> str | None:
    """Why such media cannot be shown; None: they can."""
    for ref in media:
        if ref.stream not in STREAMS:
            return f"the model takes no {ref.stream!r}: a model with a processor of its own reads videos and pictures"
        if not ref.path:
            return f"there is no file of the {ref.stream}"
        try:
            ref.part  # noqa: B018 - raises for seconds that are no part
        except ValueError as error:
            return str(MediaError(ref.path, str(error)))
    return None


def pieces(request: Request) -> list[str | int]:
    """Returns a question in the order of its prompt: texts, and places of media among ``request.media``.

    Tags such as ``<video>`` stand for the media in their order. Where tags are missing, these media come first.
    """
    found: list[str | int] = []
    text = request.question
    tagless = []
    for place, ref in enumerate(request.media):
        before, tag, after = text.partition(f"<{ref.stream}>")
        if not tag:
            tagless.append(place)
            continue
        found += [before, place]
        text = after
    ordered = [*tagless, *found, text]
    texts = [piece.strip("\n") if isinstance(piece, str) else piece for piece in ordered]
    return [piece for piece in texts if not isinstance(piece, str) or piece.strip()]
