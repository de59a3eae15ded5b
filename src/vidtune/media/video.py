"""Decoding chosen frames of a video.

Legend: T wanted frames, H and W pixels after rotation. Frame indices count shown frames in presentation order, from 0.

A frame is what decoding the whole file from its start shows at that place. `vidtune.media.packets.groups` reads it
faster where the packets allow that; where they do not, or contradict themselves, the file is decoded from its start.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from vidtune.errors import MediaError
from vidtune.media.clip_times import ClipTimes
from vidtune.media.container import open_video
from vidtune.media.image import list_frames, read_frame_images, read_image
from vidtune.media.orientation import Orientation, orientation_of
from vidtune.media.packets.groups import PlanFailedError, decode_groups
from vidtune.media.packets.table import PacketTable, decode_packet, read_packet_table
from vidtune.media.probe import MediaInfo, probe, probed_info, video_info


class _FewerFrames(Exception):
    """Decoding from start to end gave fewer frames than there are packets."""

    def __init__(self, num_frames: int) -> None:
        self.num_frames = num_frames


def read_frames(path: str | os.PathLike[str], indices: Sequence[int], *, threads: int = 1) -> np.ndarray:
    """Decode the frames at the given indices, in the given order; an index may repeat.

    Args:
        indices: frame indices in presentation order, from 0.
        threads: number of decoder threads.

    Shape: -> uint8 RGB (T, H, W, 3), display rotation applied
    Raises:
        MediaError: the file cannot be decoded, or an index is not below its number of frames.
        ValueError: no index, or a negative one.
    """
    path = os.fspath(path)
    wanted = [int(index) for index in indices]
    if not wanted or min(wanted) < 0:
        raise ValueError(f"frame indices must be 0 or more and at least one, got {wanted}")
    if Path(path).is_dir():
        paths = list_frames(path)
        _check_range(path, wanted, len(paths))
        return read_frame_images(paths, wanted)
    with _opened(path, threads) as (container, stream, table):
        _check_range(path, wanted, table.num_frames)
        try:
            return _decode(path, container, stream, table, wanted, threads)[0]
        except _FewerFrames as error:
            _check_range(path, wanted, error.num_frames)
            raise MediaError(path, "gives another number of frames at every decoding") from None


def read_clip(
    path: str | os.PathLike[str],
    choose: Callable[[ClipTimes], list[int]],
    *,
    threads: int = 1,
    as_probed: bool = False,
) -> tuple[np.ndarray, MediaInfo]:
    """Decode the frames of a clip that a function chooses. The file is opened once.

    Args:
        choose: function(times of the clip; unknown for a folder) -> frame indices, such as
            `vidtune.media.preprocessing.frame_sampling.frame_chooser` makes. It is called again if decoding gives
            fewer frames than the packets promise.
        as_probed: refuse a file that gives another number of frames or another picture size than `probe` returns,
            because the caller has already used those.

    Shape: -> uint8 RGB (number of indices, H, W, 3), and the metadata of the file
    Raises:
        MediaError: the file cannot be decoded or is not a video.
    """
    path = os.fspath(path)
    if Path(path).is_dir():
        paths = list_frames(path)
        return read_frame_images(paths, choose(ClipTimes.unknown(len(paths)))), probe(path)
    with _opened(path, threads) as (container, stream, table):
        times = table.clip
        try:
            indices = choose(times)
            frames, orientation = _decode(path, container, stream, table, indices, threads)
        except _FewerFrames as error:
            if as_probed:
                raise MediaError(path, f"promises {table.num_frames} frames but gives {error.num_frames}") from None
            times = times.first(error.num_frames)
            frames, orientation = _decode_plainly(path, choose(times), threads)
        info = replace(video_info(container, stream, table, orientation), times=times)
        if as_probed:
            _check_picture(path, frames, probed_info(path, container, stream, table))
        return frames, info


def every_frame(path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """Decode a whole video, one frame after the other.

    Shape: -> uint8 RGB (H, W, 3) each, display rotation applied
    Raises:
        MediaError: the file cannot be decoded.
    """
    path = os.fspath(path)
    if Path(path).is_dir():
        yield from map(read_image, list_frames(path))
        return
    with open_video(path) as (container, stream):
        reformatter = VideoReformatter()
        for frame in _all_frames(container, stream):
            yield orientation_of(frame).apply(reformatter.reformat(frame, format="rgb24").to_ndarray())


def _check_picture(path: str, frames: np.ndarray, told: MediaInfo) -> None:
    height, width = frames.shape[1:3]
    if (height, width) != (told.height, told.width):
        raise MediaError(path, f"promises pictures of {told.width}x{told.height} pixels but gives {width}x{height}")


@contextmanager
def _opened(path: str, threads: int) -> Iterator[tuple[InputContainer, VideoStream, PacketTable]]:
    with open_video(path, threads) as (container, stream):
        yield container, stream, read_packet_table(path, container, stream)


def _check_range(path: str, wanted: Sequence[int], num_frames: int) -> None:
    if max(wanted) >= num_frames:
        raise MediaError(path, f"frame {max(wanted)} was asked for, the last of its {num_frames} is {num_frames - 1}")


def _decode(
    path: str, container: InputContainer, stream: VideoStream, table: PacketTable, wanted: Sequence[int], threads: int
) -> tuple[np.ndarray, Orientation]:
    """Decode frames (T, H, W, 3) by the plan, or from the start if it fails; also return how they were turned."""
    if table.timed:
        try:
            return _collect(path, wanted, decode_groups(container, stream, table, set(wanted), threads), threads)
        except (PlanFailedError, av.FFmpegError):
            pass
    return _decode_plainly(path, wanted, threads)


def _collect(
    path: str, wanted: Sequence[int], decoded: Iterator[tuple[int, VideoFrame]], threads: int
) -> tuple[np.ndarray, Orientation]:
    """Convert frames to RGB, rotate them upright, and put each at the places of its index in ``wanted``."""
    slots: dict[int, list[int]] = {}
    for slot, index in enumerate(wanted):
        slots.setdefault(index, []).append(slot)
    reformatter = VideoReformatter()
    frames: np.ndarray | None = None
    orientation = Orientation()
    for index, frame in decoded:
        pixels = reformatter.reformat(frame, format="rgb24", threads=threads).to_ndarray()
        orientation = orientation_of(frame)
        pixels = orientation.apply(pixels)
        if frames is None:
            frames = np.empty((len(wanted), *pixels.shape), np.uint8)
        if pixels.shape != frames.shape[1:]:
            raise MediaError(path, f"its picture size changes at frame {index}")
        for slot in slots[index]:
            frames[slot] = pixels
        del pixels  # so that the next frame gets its memory, which is mapped already
    assert frames is not None
    return frames, orientation


def _decode_plainly(path: str, wanted: Sequence[int], threads: int) -> tuple[np.ndarray, Orientation]:
    with open_video(path, threads) as (container, stream):
        return _collect(path, wanted, _decode_from_start(path, container, stream, set(wanted)), threads)


def _decode_from_start(
    path: str, container: InputContainer, stream: VideoStream, wanted: set[int]
) -> Iterator[tuple[int, VideoFrame]]:
    """Yield the wanted frames with their index."""
    last, index = max(wanted), -1
    for index, frame in enumerate(_all_frames(container, stream)):
        if index in wanted:
            if frame.is_corrupt:
                raise MediaError(path, f"frame {index} is damaged")
            yield index, frame
        if index == last:
            return
    if index < 0:
        raise MediaError(path, "holds no frame that can be decoded")
    raise _FewerFrames(index + 1)


def _all_frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    started = False
    for packet in container.demux(stream):
        for frame in decode_packet(stream.codec_context, packet, started):
            started = True
            yield frame
