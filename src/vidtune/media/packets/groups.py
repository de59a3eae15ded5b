"""Decoding chosen frames from the groups of pictures that hold one, with guards against frames of another place.

A group of pictures (GOP) is a key frame and what follows it in decode order. For each group that holds a wanted frame,
the reader seeks to its key frame. The decoder skips pictures that no other picture refers to (most B-frames) unless
they are wanted, and stops after the last wanted frame of the group. A picture that is shown before the key frame of its
own group (open GOP) is decoded from the previous key frame.

Guards: every packet after a seek must be the next one of the table; the picture of the key frame must come out first,
and the others in the order of their times. Where the times cannot show that the decoder changes the order of the
packets although it may do so, and where frames have unequal distances, so that a time may be damaged, every frame must
come out in its turn, without help from the end of the range.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vidtune.media.first_look import OtherReading
from vidtune.media.packets.bitstream import is_entry_point
from vidtune.media.packets.table import PacketTable

# Codecs whose decoder recognises pictures that no other picture refers to.
_SKIPPING_CODECS = frozenset({"h264", "mpeg4", "mpeg1video", "mpeg2video"})


class PlanFailedError(OtherReading):
    """The decoder gives other frames than the packets promise; the file is decoded from start to end instead."""


def first_range(table: PacketTable, keys: np.ndarray, positions: Iterable[int]) -> tuple[int, list[int]]:
    """Return the key frame at which decoding starts, and the wanted packets that are decoded from there on.

    Args:
        keys: bool (N,) packets at which decoding may start.
        positions: packet positions of the wanted frames.

    Returns:
        Position of the key frame that comes first in decode order, and wanted positions, ascending. The next range
        begins behind them.
    """
    key_positions = np.flatnonzero(keys)
    first, taken = 0, list[int]()
    for position in sorted(positions):
        gop = int(np.searchsorted(key_positions, position, side="right")) - 1
        if gop > 0 and table.times[position] < table.times[key_positions[gop]]:
            gop -= 1
        start = int(key_positions[gop])
        if taken and start > taken[-1] + 1:
            break
        first = first if taken else start
        taken.append(position)
    return first, taken


def decode_groups(
    container: InputContainer, stream: VideoStream, table: PacketTable, wanted: set[int], threads: int
) -> Iterator[tuple[int, VideoFrame]]:
    """Yield the wanted frames with their index, in decode order of their groups.

    Raises:
        PlanFailedError: the decoder gives other frames than the packets promise.
    """
    order, context = table.presentation_order, stream.codec_context
    index_at = {int(order[index]): index for index in wanted}
    keys = table.keys.copy()
    keys[0] = True  # decoding from the start of the file is always right
    while index_at:
        start, positions = first_range(table, keys, index_at)
        packets = _packets_from(container, stream, table, start)
        first = next(packets)
        if start > 0 and not is_entry_point(context.name, bytes(first), context.extradata):
            keys[start] = False
            continue
        missing = set(positions)
        context.flush_buffers()
        decoded = _decode_range(stream, table, chain([first], packets), start, missing, threads)
        for position, frame in _in_order(table, decoded, start, _is_ambiguous(table, start, max(positions))):
            if position in missing:
                if frame.is_corrupt:
                    raise PlanFailedError
                missing.discard(position)
                yield index_at.pop(position), frame
                if not missing:
                    break
        if missing:
            raise PlanFailedError


def _is_ambiguous(table: PacketTable, start: int, last: int) -> bool:
    """Whether the times of this range may not tell the order in which the decoder shows its pictures.

    A damaged time leaves a gap where it was. A decoder that may change the order of packets shows it in their times.
    """
    times = table.times[start : last + 1]
    return not table.evenly_spaced(times[0], times.max()) or (table.reordered and bool((np.diff(times) > 0).all()))


def _decode_range(
    stream: VideoStream, table: PacketTable, packets: Iterator[Packet], start: int, wanted: set[int], threads: int
) -> Iterator[VideoFrame]:
    """Yield the decoded frames of the packets from a key frame to the last wanted packet, in presentation order."""
    context = stream.codec_context
    wanted_positions, last = frozenset(wanted), max(wanted)
    ambiguous = _is_ambiguous(table, start, last)
    skipping = threads == 1 and context.name in _SKIPPING_CODECS and not ambiguous
    for position, packet in enumerate(packets, start):
        if skipping:
            context.skip_frame = "DEFAULT" if position in wanted_positions else "NONREF"
        yield from context.decode(packet)
        if position >= last and not ambiguous:
            break
    if skipping:
        context.skip_frame = "DEFAULT"
    yield from context.decode(None)


def _in_order(
    table: PacketTable, frames: Iterator[VideoFrame], start: int, one_by_one: bool
) -> Iterator[tuple[int, VideoFrame]]:
    """Yield frames with their packet position; those shown before the key frame at ``start`` are left out.

    Args:
        one_by_one: no frame may be left out.

    Raises:
        PlanFailedError: the picture of the key frame does not come first, or another frame out of its turn.
    """
    order = table.presentation_order
    turn = int(np.searchsorted(table.times[order], table.times[start])) if start else 0
    latest = None
    for frame in frames:
        position = table.position_at.get(frame.pts) if frame.pts is not None else None
        if position is None or (latest is not None and table.times[position] <= latest):
            raise PlanFailedError
        if start and table.times[position] < table.times[start]:
            continue
        strict = one_by_one or (latest is None and table.shown[start])
        if strict and (turn >= len(order) or position != order[turn]):
            raise PlanFailedError
        latest, turn = table.times[position], turn + 1
        yield position, frame


def _packets_from(container: InputContainer, stream: VideoStream, table: PacketTable, start: int) -> Iterator[Packet]:
    """Yield packets from a key frame on. If a seek lands behind it, decode times and earlier key frames are tried.

    Raises:
        PlanFailedError: no seek finds the key frame, or a packet is not the next one of the table.
    """
    earlier = int(np.flatnonzero(table.keys[: max(start, 1)])[-1:].sum())
    for target in (table.times[start], table.decode_times[start], table.decode_times[earlier], table.decode_times[0]):
        container.seek(int(target), stream=stream)
        packets = (packet for packet in container.demux(stream) if packet.size)
        for packet in packets:
            position = _position_of(table, packet)
            if position is None or position > start:
                break
            if position == start:
                yield packet
                for place, later in enumerate(packets, start + 1):
                    if _position_of(table, later) != place:
                        raise PlanFailedError
                    yield later
                return
    raise PlanFailedError


def _position_of(table: PacketTable, packet: Packet) -> int | None:
    position = table.position_at.get(packet.pts) if packet.pts is not None else None
    return position if position is not None and table.sizes[position] == packet.size else None
