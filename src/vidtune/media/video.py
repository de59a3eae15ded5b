"""Decoding chosen frames of a video.

Legend: T wanted frames, H and W pixels after rotation. Frame indices count shown frames in presentation order, from 0.

A frame is what decoding the whole file from its start shows at that place. `vidtune.media.packets.groups` reads it
faster where the packets allow that; where they do not, or contradict themselves, the file is decoded from its start.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from vidtune.errors import MediaError
from vidtune.media.clip_times import ClipTimes, Part
from vidtune.media.container import open_video
from vidtune.media.first_look import OtherReading, is_folder
from vidtune.media.image import frame_images, image_size, list_frames, read_image
from vidtune.media.orientation import Orientation, orientation_of
from vidtune.media.packets.groups import PlanFailedError, decode_groups
from vidtune.media.packets.table import PacketTable, decode_packet, read_packet_table
from vidtune.media.probe import MediaInfo, part_errors, probe, probed_info, video_info

Keep = Callable[[np.ndarray], np.ndarray]
"""Makes what is kept of decoded frames, see `read_clip`."""
BLOCK_BYTES = 64 * 2**20
"""Size of decoded frames above which they are kept in blocks of this size."""


class _FewerFrames(OtherReading):
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
    if is_folder(path):
        paths = list_frames(path)
        _check_range(path, wanted, len(paths))
        return _collect(path, wanted, frame_images(paths, wanted))
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
    part: Part | None = None,
    keep: Keep | None = None,
) -> tuple[np.ndarray, MediaInfo]:
    """Decode the frames of a clip that a function chooses. The file is opened once.

    Args:
        choose: function(times of the clip; unknown for a folder) -> frame indices, such as
            `vidtune.media.preprocessing.frame_sampling.frame_chooser` makes. It is called again if decoding gives
            fewer frames than the packets promise. For a part of a file, times and indices are those of the part. Not
            called where the part names its frames by their seconds.
        as_probed: refuse a file that gives another number of frames or another picture size than `probe` returns,
            because the caller has already used those.
        part: what of the file is read; None: the whole file. A picture for which it gives a frame rate is a clip of
            one frame.
        keep: makes what is kept of decoded frames, each alone: uint8 (n, H, W, 3) -> (n, ...). It gets all of them, or
            blocks if they are large, so that they are never in memory together. None: they are kept as they are.

    Shape: -> uint8 RGB (number of indices, H, W, 3), or what ``keep`` makes of it; and the metadata of what was read
    Raises:
        MediaError: the file cannot be decoded or is not a video, or there is no such part (`ItemError`).
    """
    path, part = os.fspath(path), part or Part()
    if paths := _frames_of(path, part):
        info = probe(path)
        indices = _chosen(path, choose, info.times, part)
        return _collect(path, indices, frame_images(paths, indices), keep), info.of_part(path, part)
    with _opened(path, threads) as (container, stream, table):
        times = table.clip
        try:
            indices = _chosen(path, choose, times, part)
            frames, upright = _decode(path, container, stream, table, indices, threads, keep)
        except _FewerFrames as error:
            if as_probed:
                raise MediaError(path, f"promises {table.num_frames} frames but gives {error.num_frames}") from None
            times = times.first(error.num_frames)
            frames, upright = _decode_plainly(path, _chosen(path, choose, times, part), threads, keep)
        info = replace(video_info(container, stream, table, upright.orientation), times=times)
        if as_probed:
            _check_picture(path, upright.size, probed_info(path, container, stream, table))
        return frames, info.of_part(path, part)


def _frames_of(path: str, part: Part) -> list[str]:
    """The files of a folder of frames, or the picture that is read as a clip; none of a video file."""
    if is_folder(path):
        return list_frames(path)
    return [path] if part.fps is not None and image_size(path) else []


def _chosen(path: str, choose: Callable[[ClipTimes], list[int]], times: ClipTimes, part: Part) -> list[int]:
    """Return the indices in the file of the frames that are chosen of a part of it."""
    with part_errors(path):
        first, own, _ = part.of(times)
        asked = part.chosen(own)
    return [first + index for index in asked or choose(own)]


def every_frame(path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """Decode a whole video, one frame after the other.

    Shape: -> uint8 RGB (H, W, 3) each, display rotation applied
    Raises:
        MediaError: the file cannot be decoded.
    """
    path = os.fspath(path)
    if is_folder(path):
        yield from (read_image(frame, path) for frame in list_frames(path))
        return
    with open_video(path) as (container, stream):
        reformatter = VideoReformatter()
        for frame in _all_frames(container, stream):
            yield orientation_of(frame).apply(reformatter.reformat(frame, format="rgb24").to_ndarray())


def _check_picture(path: str, size: tuple[int, ...], told: MediaInfo) -> None:
    height, width = size
    if size != (told.height, told.width):
        raise MediaError(path, f"promises pictures of {told.width}x{told.height} pixels but gives {width}x{height}")


@contextmanager
def _opened(path: str, threads: int) -> Iterator[tuple[InputContainer, VideoStream, PacketTable]]:
    with open_video(path, threads) as (container, stream):
        yield container, stream, read_packet_table(path, container, stream)


def _check_range(path: str, wanted: Sequence[int], num_frames: int) -> None:
    if max(wanted) >= num_frames:
        raise MediaError(path, f"frame {max(wanted)} was asked for, the last of its {num_frames} is {num_frames - 1}")


class _Upright:
    """Decoded frames as RGB, rotated upright: an iterable of (index, uint8 (H, W, 3)).

    ``orientation``: how the last one was turned. ``size``: its height and width.
    """

    def __init__(self, decoded: Iterator[tuple[int, VideoFrame]], threads: int) -> None:
        self._decoded, self._threads = decoded, threads
        self.orientation = Orientation()
        self.size: tuple[int, ...] = ()

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        reformatter = VideoReformatter()
        for index, frame in self._decoded:
            pixels = reformatter.reformat(frame, format="rgb24", threads=self._threads).to_ndarray()
            self.orientation = orientation_of(frame)
            pixels = self.orientation.apply(pixels)
            self.size = pixels.shape[:2]
            yield index, pixels
            del pixels  # so that the next frame gets its memory, which is mapped already


def _decode(
    path: str,
    container: InputContainer,
    stream: VideoStream,
    table: PacketTable,
    wanted: Sequence[int],
    threads: int,
    keep: Keep | None = None,
) -> tuple[np.ndarray, _Upright]:
    """Decode frames (T, H, W, 3) by the plan, or from the start if it fails; also return how they came."""
    if table.timed:
        try:
            upright = _Upright(decode_groups(container, stream, table, set(wanted), threads), threads)
            return _collect(path, wanted, upright, keep), upright
        except (PlanFailedError, av.FFmpegError):
            pass
    return _decode_plainly(path, wanted, threads, keep)


def _collect(
    path: str, wanted: Sequence[int], pictures: Iterable[tuple[int, np.ndarray]], keep: Keep | None = None
) -> np.ndarray:
    """Put each picture, or what is kept of it, at the places of its index in ``wanted``. Shape: -> (T, ...)"""
    slots: dict[int, list[int]] = {}
    for slot, index in enumerate(wanted):
        slots.setdefault(index, []).append(slot)
    shape: tuple[int, ...] | None = None
    block = found = np.empty(0, np.uint8)  # frames whose result is not kept yet; what is kept of those before
    waiting: list[int] = []  # places of the frames in the block, in the result
    for index, pixels in pictures:
        if shape is None:
            shape = pixels.shape
            room = len(wanted) if keep is None else max(1, min(BLOCK_BYTES // pixels.nbytes, len(wanted)))
            block = np.empty((room, *shape), np.uint8)
        if pixels.shape != shape:
            raise MediaError(path, f"its picture size changes at frame {index}")
        for slot in slots[index]:
            if len(waiting) == len(block) and keep is not None:
                found, waiting = _kept(keep, block, waiting, found, len(wanted)), []
            block[len(waiting)] = pixels
            waiting.append(slot)
    assert shape is not None
    if len(waiting) == len(wanted):
        whole = block if waiting == sorted(waiting) else block[np.argsort(waiting)]
        return whole if keep is None else keep(whole)
    assert keep is not None
    return _kept(keep, block, waiting, found, len(wanted))


def _kept(keep: Keep, block: np.ndarray, places: list[int], found: np.ndarray, number: int) -> np.ndarray:
    """Put what is kept of a block of frames at their places in the result, which the first block begins."""
    kept = keep(block[: len(places)])
    if not found.size:
        found = np.empty((number, *kept.shape[1:]), kept.dtype)
    found[places] = kept
    return found


def _decode_plainly(
    path: str, wanted: Sequence[int], threads: int, keep: Keep | None = None
) -> tuple[np.ndarray, _Upright]:
    with open_video(path, threads) as (container, stream):
        upright = _Upright(_decode_from_start(path, container, stream, set(wanted)), threads)
        return _collect(path, wanted, upright, keep), upright


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
