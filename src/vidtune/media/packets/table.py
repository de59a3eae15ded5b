"""The packet table of a video: times, key frames and shown frames, from the index of the file or from its packets.

Legend: N packets of the video stream in decode order. Times are integers in units of the stream's time base.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from vidtune.errors import MediaError
from vidtune.media.clip_times import ClipTimes
from vidtune.media.container import check_complete, open_video, packet_end, streams_to_demux
from vidtune.media.mp4_boxes import sample_times
from vidtune.media.packets.bitstream import is_entry_point, may_hide_pictures, shows_a_picture

# Formats without presentation times; FFmpeg derives times from the decode order.
FORMATS_WITHOUT_TIMES = frozenset({"avi", "h264", "hevc", "m4v", "mpegvideo", "obu"})
# Codecs in which decoding can start at any key frame and each packet shows exactly one frame.
SEEKABLE_CODECS = frozenset({"h264", "hevc", "vp9", "av1", "libdav1d", "mpeg4", "mpeg1video", "mpeg2video", "mjpeg"})
# Packets by which a decoder may put off a picture, where it is more than one: ITU-T H.264 and H.265, annex A.
_LARGEST_DELAY = {"h264": 16, "hevc": 15}
_COMPARED = 16  # packets that are read to see that the index of a file tells the same as they do


@dataclass(frozen=True)
class PacketTable:
    """Packets of a video stream.

    Args:
        times: int64 (N,) presentation times; meaningless unless ``timed``.
        decode_times: int64 (N,) decode times, by which packets are ordered and some formats seek.
        sizes: int64 (N,) bytes.
        keys: bool (N,) key frames.
        shown: bool (N,) packets that give a visible frame. Frames outside an edit list, hidden reference frames and
            pictures that need something before the start of the file are not visible.
        timed: every packet has a time of its own, and decoding can start at key frames.
        reordered: the decoder may show pictures in another order than that of the packets.
        clip: times of the visible frames.
        first: content of the first packet.
    """

    times: np.ndarray
    decode_times: np.ndarray
    sizes: np.ndarray
    keys: np.ndarray
    shown: np.ndarray
    timed: bool
    reordered: bool
    clip: ClipTimes
    first: bytes = b""

    @property
    def num_frames(self) -> int:
        """Number of visible frames."""
        return int(self.shown.sum())

    @cached_property
    def presentation_order(self) -> np.ndarray:
        """Packet position of each visible frame, in the order of presentation: int64 (num_frames,)."""
        positions = np.flatnonzero(self.shown)
        return positions[np.argsort(self.times[positions], kind="stable")]

    def evenly_spaced(self, first: int, last: int) -> bool:
        """Whether the frames from one time to the frame behind another have nearly equal distances."""
        steps = np.diff(self._sorted[np.searchsorted(self._sorted, first) : np.searchsorted(self._sorted, last) + 2])
        return len(steps) == 0 or bool(4 * (steps.max() - steps.min()) <= steps.min())

    @cached_property
    def _sorted(self) -> np.ndarray:
        return np.sort(self.times)

    @cached_property
    def position_at(self) -> dict[int, int]:
        """Packet position of each presentation time."""
        return {int(time): position for position, time in enumerate(self.times)}


@dataclass
class _Packets:
    """Columns of the table as the file tells them; None where it tells nothing. ``first``: content of the first one."""

    times: list[Any] = field(default_factory=list)
    decode_times: list[Any] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    keys: list[bool] = field(default_factory=list)
    shown: list[bool] = field(default_factory=list)
    first: bytes = b""

    def add(self, packet: Packet, codec: str) -> None:
        self.first = self.first or bytes(packet)
        self.times.append(packet.pts)
        self.decode_times.append(packet.dts)
        self.durations.append(packet.duration or 0)
        self.sizes.append(packet.size)
        self.keys.append(packet.is_keyframe)
        hides = codec in ("vp8", "vp9") and not shows_a_picture(codec, bytes(packet))
        self.shown.append(not packet.is_discard and not hides)

    def rows(self) -> list[tuple[Any, ...]]:
        """Times, decode times, sizes and marks of the first packets."""
        columns = self.times, self.decode_times, self.sizes, self.keys, self.shown
        return list(islice(zip(*columns, strict=True), _COMPARED))


def read_packet_table(path: str, container: InputContainer, stream: VideoStream) -> PacketTable:
    """Read the index of a file, or all packets of a video stream once.

    Raises:
        MediaError: there is no frame, or the file ends before the frames that its index lists.
    """
    context = stream.codec_context
    packets = _indexed_packets(path, container, stream) or _demuxed_packets(path, container, stream)
    if not any(packets.shown):
        raise MediaError(path, "holds no video frame")
    keys, shown = np.array(packets.keys), np.array(packets.shown)
    without_times = container.format.name in FORMATS_WITHOUT_TIMES
    distinct = all(time is not None for time in packets.times) and len(set(packets.times)) == len(packets.times)
    distinct = distinct and not without_times
    times = np.array(packets.times if distinct else range(len(keys)), np.int64)
    reordered = bool((context.has_b_frames and not keys.all()) or (np.diff(times) < 0).any())
    decode_order = reordered and bool((np.diff(times) > 0).all()) and len(times) > 1  # no presentation times
    told = distinct and not decode_order and context.name in SEEKABLE_CODECS
    delay = _LARGEST_DELAY.get(context.name, 1) if context.has_b_frames else 0
    timed = told and is_decodable_order(times, keys, delay)
    group = packets.times[: int(np.append(np.flatnonzero(keys[1:]) + 1, len(keys))[0])]
    leading = not without_times and any(time is None or time < group[0] for time in group if group[0] is not None)
    if leading or may_hide_pictures(context.name, packets.first, packets.keys[0], context.extradata):
        shown &= ~_hidden_at_start(path, packets.times)
    damaged = told and not timed
    columns = [packets.times, packets.decode_times][without_times or decode_order or damaged :]
    clip = _clip_times(stream, columns, packets, shown)
    earliest = zip(packets.decode_times, times.tolist(), strict=True)
    decode_times = np.array([time if decode_time is None else decode_time for decode_time, time in earliest], np.int64)
    sizes = np.array(packets.sizes)
    return PacketTable(times, decode_times, sizes, keys, shown, timed, reordered, clip, packets.first)


def is_decodable_order(times: np.ndarray, keys: np.ndarray, delay: int) -> bool:
    """Whether a decoder can show packets in the order of their times; it cannot where a time is damaged.

    What precedes a key frame in decode order is shown before it. Pictures that follow it but are shown before it
    (leading pictures) stand together between it and all earlier ones, without a gap.

    Args:
        times: int64 (N,) distinct presentation times in decode order.
        keys: bool (N,) key frames.
        delay: number of earlier packets that are shown after a packet, at most (reorder depth of the codec).
    """
    earlier = times
    for _ in range(delay + 1):
        latest = np.maximum.accumulate(earlier)
        earlier = np.append(np.iinfo(np.int64).min, np.minimum(earlier[1:], latest[:-1]))
    if (times[1:] < latest[:-1]).any():  # latest: of all packets so far, the (delay + 1)th from the end
        return False
    starts = np.flatnonzero(keys)[np.flatnonzero(keys) > 0]
    if not len(starts):
        return True
    latest = np.maximum.accumulate(times)[starts - 1]
    group = np.searchsorted(starts, np.arange(len(times)), side="right") - 1
    leading = (group >= 0) & (times < times[starts][group])
    if (latest > times[starts]).any() or (times < latest[group])[leading].any():
        return False
    ordered = np.sort(times)
    steps = np.diff(ordered)
    usual = int(np.median(steps))
    odd = np.append(0, np.cumsum(4 * np.abs(steps - usual) > usual))
    with_leading = np.unique(group[leading])
    first, last = np.searchsorted(ordered, latest[with_leading]), np.searchsorted(ordered, times[starts[with_leading]])
    return bool((odd[first] == odd[last]).all())


def _demuxed_packets(path: str, container: InputContainer, stream: VideoStream) -> _Packets:
    packets, damaged, latest = _Packets(), False, 0.0
    for packet in container.demux(*streams_to_demux(container, stream)):
        if packet.size == 0:
            continue
        latest = max(latest, packet_end(packet))
        if packet.stream_index == stream.index:
            packets.add(packet, stream.codec_context.name)
            damaged = damaged or packet.is_corrupt
    check_complete(path, container, stream, latest, sum(packets.shown), damaged)
    return packets


def _indexed_packets(path: str, container: InputContainer, stream: VideoStream) -> _Packets | None:
    """Return the packets as the index of an MP4 file lists them; None without an index. The first ones are compared."""
    codec = stream.codec_context.name
    entries: Any = stream.index_entries
    if "mp4" not in container.format.name or codec in ("vp8", "vp9") or len(entries) != stream.frames:
        return None
    samples = sample_times(path, stream.id, len(entries)) if len(entries) else None
    if samples is None:
        return None
    check_complete(path, container, stream, 0.0, len(entries), False)
    start = _Packets()
    for packet in islice((packet for packet in container.demux(stream) if packet.size), _COMPARED):
        start.add(packet, codec)
    listed = _Packets(first=start.first)
    shift = next((time for time in start.times if time is not None), 0) - entries[0].timestamp - int(samples[0][0])
    for entry, offset in zip(entries, samples[0].tolist(), strict=True):
        listed.times.append(entry.timestamp + offset + shift)
        listed.decode_times.append(entry.timestamp)
        listed.sizes.append(entry.size)
        listed.keys.append(entry.is_keyframe)
        listed.shown.append(not entry.is_discard)
    listed.durations = [0] * (len(entries) - 1) + [samples[1]]
    if listed.rows() == start.rows() and all(listed.sizes):
        return listed
    with open_video(path) as (again, pictures):
        return _demuxed_packets(path, again, pictures)


def _hidden_at_start(path: str, times: list[int | None]) -> np.ndarray:
    """Decode the start of a file that was cut out of a longer one, to see which packets show nothing: bool (N,).

    Where nothing can be decoded, nothing is hidden: reading the frames will say why.

    Args:
        times: presentation times of the packets. Where they do not tell, the first ones in decode order are taken.
    """
    fed = entries = 0
    seen: list[int | None] = []
    with open_video(path) as (container, stream):
        context = stream.codec_context
        for packet in (packet for packet in container.demux(stream) if packet.size):
            if packet.is_keyframe and is_entry_point(context.name, bytes(packet), context.extradata):
                entries += 1
                if entries > 1 and seen:
                    break
            fed += 1
            seen += [frame.pts for frame in decode_packet(context, packet, bool(seen))]
        seen += [frame.pts for frame in context.decode(None)]
    hidden: np.ndarray = np.zeros(len(times), bool)
    if not seen:
        return hidden
    shown = set(seen)
    unseen = [position for position, time in enumerate(times[:fed]) if time is None or time not in shown]
    hidden[unseen if len(unseen) == fed - len(seen) else slice(0, max(0, fed - len(seen)))] = True
    return hidden


def decode_packet(context: Any, packet: Packet, started: bool) -> Iterable[Any]:
    """Return the frames that a packet gives. Before the first picture, packets that need earlier ones give none.

    Raises:
        av.FFmpegError: the packet is damaged.
    """
    try:
        return context.decode(packet)
    except av.FFmpegError:
        if started or packet.is_keyframe:
            raise
        return []


def _clip_times(stream: VideoStream, candidates: list[list[Any]], packets: _Packets, shown: np.ndarray) -> ClipTimes:
    """Return the times of the shown frames.

    Frames are shown in the order of their presentation times. Decode times serve where those are missing or are not
    what their name says, and without those the frame rate.

    Args:
        candidates: times of N packets, the best first; None where a packet has none.
        shown: bool (N,).
    """
    tick = stream.time_base
    decode_times = [time for time in packets.decode_times if time is not None]
    in_order = bool((np.diff(np.array(decode_times)) >= 0).all())
    for times in candidates if in_order else ():
        ticks = [time for time, visible in zip(times, shown, strict=True) if visible]
        if tick and all(time is not None for time in ticks) and len(set(ticks)) == len(ticks):
            starts = np.array(ticks, np.int64)
            order = np.argsort(starts)
            starts, lengths = starts[order], np.array(packets.durations)[shown][order]
            end = int(starts[-1]) + _last_ticks(stream, np.diff(starts), lengths[lengths > 0])
            return ClipTimes.of_ticks(starts, end, tick)
    return ClipTimes.evenly(int(shown.sum()), stream.average_rate or stream.guessed_rate or 0)


def _last_ticks(stream: VideoStream, steps: np.ndarray, durations: np.ndarray) -> int:
    """Return the duration of the last frame: the stated one, unless it is missing or a mere tick."""
    rate = stream.average_rate or stream.guessed_rate
    usual = round(1 / (rate * stream.time_base)) if rate and stream.time_base else 0
    usual = int(np.median(steps)) if len(steps) else usual
    return int(durations[-1]) if len(durations) and 4 * durations[-1] >= usual else usual
