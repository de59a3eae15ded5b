"""Decoding chosen frames of a video: only the groups of pictures that hold one, and only the pictures they need.

Legend: T wanted frames, H and W pixels after rotation. A GOP (group of pictures) is a key frame and what follows it
in decode order. Frame indices count shown frames in presentation order, from 0.

One pass over the packets gives times and key frames. For each GOP that holds a wanted frame, the reader seeks to its
key frame. The decoder skips pictures that no other picture refers to (most B-frames) unless they are wanted, and stops
after the last wanted frame of the GOP. A picture that is shown before the key frame of its own GOP (open GOP) is
decoded from the previous key frame. The pixels equal those of decoding the file from start to end; a file whose packets
do not allow this plan is decoded in that way.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from vidtune.errors import MediaError
from vidtune.media.container import PacketTable, open_video, read_packet_table
from vidtune.media.image import list_frames, read_frame_images
from vidtune.media.probe import MediaInfo, probe, probed_info, video_info
from vidtune.media.rotation import quarter_turns

# Codecs whose decoder recognises pictures that no other picture refers to.
_SKIPPING_CODECS = frozenset({"h264", "mpeg4", "mpeg1video", "mpeg2video"})


class _PlanFailed(Exception):
    """The decoder gives other frames than the packets promise; the file is decoded from start to end instead."""


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
    choose: Callable[[int, float], list[int]],
    *,
    threads: int = 1,
    as_probed: bool = False,
) -> tuple[np.ndarray, MediaInfo]:
    """Decode the frames of a clip that a function chooses. The file is opened once.

    Args:
        choose: function(number of frames, frames per second; 0 for a folder) -> frame indices, such as
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
        return read_frame_images(paths, choose(len(paths), 0.0)), probe(path)
    with _opened(path, threads) as (container, stream, table):
        num_frames = table.num_frames
        fps = table.clip.fps
        try:
            indices = choose(num_frames, fps)
            frames, rotation = _decode(path, container, stream, table, indices, threads)
        except _FewerFrames as error:
            if as_probed:
                raise MediaError(path, f"promises {num_frames} frames but gives {error.num_frames}") from None
            num_frames = error.num_frames
            frames, rotation = _decode_plainly(path, choose(num_frames, fps), threads)
        info = video_info(container, stream, table, rotation)
        info = replace(info, times=info.times.first(num_frames))
        if as_probed:
            _check_picture(path, frames, probed_info(path, container, stream, table))
        return frames, info


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
) -> tuple[np.ndarray, int]:
    """Decode frames (T, H, W, 3) by the plan, or from the start if it fails; also return the rotation in degrees."""
    if table.timed:
        try:
            return _collect(path, wanted, _decode_gops(container, stream, table, set(wanted), threads), threads)
        except (_PlanFailed, av.FFmpegError):
            pass
    return _decode_plainly(path, wanted, threads)


def _collect(
    path: str, wanted: Sequence[int], decoded: Iterator[tuple[int, VideoFrame]], threads: int
) -> tuple[np.ndarray, int]:
    """Convert frames to RGB, rotate them upright, and put each at the places of its index in ``wanted``."""
    slots: dict[int, list[int]] = {}
    for slot, index in enumerate(wanted):
        slots.setdefault(index, []).append(slot)
    reformatter = VideoReformatter()
    frames: np.ndarray | None = None
    turns = 0
    for index, frame in decoded:
        pixels = reformatter.reformat(frame, format="rgb24", threads=threads).to_ndarray()
        if frames is None:
            turns = quarter_turns(frame.rotation)
        if turns:
            pixels = np.rot90(pixels, turns)
        if frames is None:
            frames = np.empty((len(wanted), *pixels.shape), np.uint8)
        if pixels.shape != frames.shape[1:]:
            raise MediaError(path, f"its picture size changes at frame {index}")
        for slot in slots[index]:
            frames[slot] = pixels
        del pixels  # so that the next frame gets its memory, which is mapped already
    assert frames is not None
    return frames, turns * 90


def _decode_plainly(path: str, wanted: Sequence[int], threads: int) -> tuple[np.ndarray, int]:
    with open_video(path, threads) as (container, stream):
        return _collect(path, wanted, _decode_from_start(path, container, stream, set(wanted)), threads)


def _decode_from_start(
    path: str, container: InputContainer, stream: VideoStream, wanted: set[int]
) -> Iterator[tuple[int, VideoFrame]]:
    last, index = max(wanted), -1
    for index, frame in enumerate(container.decode(stream)):
        if index in wanted:
            if frame.is_corrupt:
                raise MediaError(path, f"frame {index} is damaged")
            yield index, frame
        if index == last:
            return
    if index < 0:
        raise MediaError(path, "holds no frame that can be decoded")
    raise _FewerFrames(index + 1)


def gop_plan(table: PacketTable, positions: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Return where decoding starts, and which packets are wanted from there on.

    Args:
        positions: packet positions of the wanted frames.

    Returns:
        Pairs (position of a key frame, wanted positions ascending) in decode order. The ranges do not overlap.
    """
    key_positions = np.flatnonzero(table.keys)
    plan: list[tuple[int, list[int]]] = []
    for position in sorted(positions):
        gop = int(np.searchsorted(key_positions, position, side="right")) - 1
        if table.times[position] < table.times[key_positions[gop]]:
            gop -= 1
        if gop < 0:
            raise _PlanFailed
        start = int(key_positions[gop])
        if plan and start <= plan[-1][1][-1] + 1:
            plan[-1][1].append(position)
        else:
            plan.append((start, [position]))
    return plan


def _decode_gops(
    container: InputContainer, stream: VideoStream, table: PacketTable, wanted: set[int], threads: int
) -> Iterator[tuple[int, VideoFrame]]:
    order = table.presentation_order
    index_at = {int(order[index]): index for index in wanted}
    position_at = {int(time): position for position, time in enumerate(table.times)}
    context = stream.codec_context
    skipping = threads == 1 and context.name in _SKIPPING_CODECS
    for start, positions in gop_plan(table, list(index_at)):
        missing = set(positions)
        context.flush_buffers()
        for frame in _decode_range(container, stream, table, position_at, start, missing, skipping):
            position = position_at.get(frame.pts) if frame.pts is not None else None
            if position in missing:
                if frame.is_corrupt:
                    raise _PlanFailed
                missing.discard(position)
                yield index_at[position], frame
                if not missing:
                    break
        if missing:
            raise _PlanFailed


def _decode_range(
    container: InputContainer,
    stream: VideoStream,
    table: PacketTable,
    position_at: dict[int, int],
    start: int,
    wanted: set[int],
    skipping: bool,
) -> Iterator[VideoFrame]:
    """Yield the decoded frames of the packets from a key frame to the last wanted packet, in presentation order."""
    context = stream.codec_context
    wanted_positions, last = frozenset(wanted), max(wanted)
    for packet in _packets_from(container, stream, table, position_at, start):
        position = position_at.get(packet.pts) if packet.pts is not None else None
        if position is None:
            raise _PlanFailed
        if skipping:
            context.skip_frame = "DEFAULT" if position in wanted_positions else "NONREF"
        yield from context.decode(packet)
        if position >= last:
            break
    if skipping:
        context.skip_frame = "DEFAULT"
    yield from context.decode(None)


def _packets_from(
    container: InputContainer, stream: VideoStream, table: PacketTable, position_at: dict[int, int], start: int
) -> Iterator[Packet]:
    """Yield packets from a key frame on. If a seek lands behind it, decode times and earlier key frames are tried."""
    earlier = int(np.flatnonzero(table.keys[: max(start, 1)])[-1])
    for target in (table.times[start], table.decode_times[start], table.decode_times[earlier], table.decode_times[0]):
        container.seek(int(target), stream=stream)
        packets = container.demux(stream)
        for packet in packets:
            position = position_at.get(packet.pts) if packet.pts is not None and packet.size else None
            if position is None or position > start:
                break
            if position == start:
                yield packet
                yield from (later for later in packets if later.size)
                return
    raise _PlanFailed
