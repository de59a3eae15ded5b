"""Opening media files, and the packet table of a video: times, key frames and number of frames, without decoding.

Legend: N packets of the video stream in decode order. Times are integers in units of the stream's time base.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from vidtune.errors import MediaError
from vidtune.media.clip_times import ClipTimes
from vidtune.media.first_look import check_file, media_errors
from vidtune.media.image import image_size

# Formats whose files hold all their data. Playlists and concatenation scripts, which name other files, are left out.
CONTAINER_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg,mpegvideo,flv,live_flv,ogg,asf,rm,mxf,nut,ivf,dv,"
    "wtv,h264,hevc,av1,obu,m4v,yuv4mpegpipe,mp3,wav,aac,flac"
)
# Formats without presentation times; FFmpeg derives times from the decode order.
FORMATS_WITHOUT_TIMES = frozenset({"avi", "h264", "hevc", "m4v", "mpegvideo", "obu"})
# Codecs in which decoding can start at any key frame and each packet shows exactly one frame.
SEEKABLE_CODECS = frozenset({"h264", "hevc", "vp9", "av1", "libdav1d", "mpeg4", "mpeg1video", "mpeg2video", "mjpeg"})


@dataclass(frozen=True)
class PacketTable:
    """Packets of a video stream, as demuxing lists them.

    Args:
        times: int64 (N,) presentation times; meaningless unless ``timed``.
        decode_times: int64 (N,) decode times, by which packets are ordered and some formats seek.
        keys: bool (N,) key frames.
        shown: bool (N,) packets that give a visible frame. Frames outside an edit list and hidden reference frames
            are not visible.
        timed: every packet has a time of its own, and decoding can start at any key frame.
        clip: times of the visible frames.
    """

    times: np.ndarray
    decode_times: np.ndarray
    keys: np.ndarray
    shown: np.ndarray
    timed: bool
    clip: ClipTimes

    @property
    def num_frames(self) -> int:
        """Number of visible frames."""
        return int(self.shown.sum())

    @cached_property
    def presentation_order(self) -> np.ndarray:
        """Packet position of each visible frame, in the order of presentation: int64 (num_frames,)."""
        positions = np.flatnonzero(self.shown)
        return positions[np.argsort(self.times[positions], kind="stable")]


@contextmanager
def open_media(path: str, expected: Literal["video", "sound"]) -> Iterator[InputContainer]:
    """Context manager that opens a local file of video or sound.

    Errors of the file system and of FFmpeg inside the ``with`` block become `MediaError`.

    Args:
        path: local file. It is never interpreted as an address or a protocol of FFmpeg.
        expected: expected content, for the error message.

    Raises:
        MediaError: missing, empty, of an unknown format, or cut off before its index.
    """
    with media_errors(path):
        check_file(path)
        try:
            options = {"protocol_whitelist": "file", "format_whitelist": CONTAINER_FORMATS}
            container = av.open(str(Path(path).absolute()), options=options)
        except (av.error.InvalidDataError, av.error.ArgumentError):
            raise MediaError(path, _why_not_opened(path, expected)) from None
        with container:
            yield container


def picture_streams(container: InputContainer) -> list[VideoStream]:
    """Return the video streams of a file, without cover pictures."""
    return [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]


@contextmanager
def open_video(path: str, threads: int = 1) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Context manager that opens a local video file, as `open_media` does, and its first video stream.

    Args:
        threads: number of decoder threads; 1 decodes in the calling thread.

    Raises:
        MediaError: as `open_media`, or without a video stream.
    """
    with open_media(path, "video") as container:
        yield container, open_video_stream(path, container, threads)


def open_video_stream(path: str, container: InputContainer, threads: int = 1) -> VideoStream:
    """Return the first video stream of an open file, ready to be decoded.

    Raises:
        MediaError: there is none, or its codec is unknown.
    """
    streams = picture_streams(container)
    if not streams:
        raise MediaError(path, "has no video stream")
    stream = streams[0]
    set_threads(path, stream, threads)
    return stream


def set_threads(path: str, stream: VideoStream | AudioStream, threads: int) -> None:
    """Set the number of threads that decode a stream; 1 decodes in the calling thread.

    Raises:
        MediaError: the codec is unknown.
    """
    if stream.codec_context is None:
        raise MediaError(path, f"its {stream.type} codec is not supported")
    stream.codec_context.thread_type = "NONE" if threads == 1 else "AUTO"
    stream.codec_context.thread_count = threads


def read_packet_table(path: str, container: InputContainer, stream: VideoStream) -> PacketTable:
    """Read all packets of a video stream once.

    Raises:
        MediaError: there is no frame, or the file ends before the frames that its index lists.
    """
    codec = stream.codec_context.name
    times, decode_times, keys, shown = [], [], [], []
    timed = codec in SEEKABLE_CODECS and container.format.name not in FORMATS_WITHOUT_TIMES
    durations: list[int] = []
    damaged, latest = False, 0.0
    for packet in container.demux(*streams_to_demux(container, stream)):
        if packet.size == 0:
            continue
        latest = max(latest, packet_end(packet))
        if packet.stream_index != stream.index:
            continue
        times.append(packet.pts)
        decode_times.append(packet.dts if packet.dts is not None else packet.pts)
        keys.append(packet.is_keyframe)
        shown.append(not packet.is_discard and (codec != "vp8" or bool(memoryview(packet)[0] & 0x10)))
        durations.append(packet.duration or 0)
        damaged = damaged or packet.is_corrupt
    if not any(shown):
        raise MediaError(path, "holds no video frame")
    check_complete(path, container, stream, latest, sum(shown), damaged)
    clip = _clip_times(stream, times, decode_times, np.array(durations), np.array(shown))
    timed = timed and all(time is not None for time in times) and len(set(times)) == len(times)
    table_times = np.array(times if timed else range(len(times)), dtype=np.int64)
    table_decode_times = np.array(decode_times if timed else table_times, dtype=np.int64)
    table_keys = np.array(keys)
    if timed:
        later_keys = np.flatnonzero(table_keys[1:])
        first_gop = table_times[: int(later_keys[0]) + 1] if len(later_keys) else table_times
        timed = bool(table_keys[0]) and bool((first_gop >= table_times[0]).all())
    return PacketTable(table_times, table_decode_times, table_keys, np.array(shown), timed, clip)


def streams_to_demux(container: InputContainer, stream: VideoStream | AudioStream) -> list[Any]:
    """Return the streams to read: all, if only the longest one shows whether the file is complete; else this one."""
    return list(container.streams) if "matroska" in container.format.name else [stream]


def packet_end(packet: Packet) -> float:
    """Return the time in seconds at which a packet ends; 0 if it has no time."""
    if packet.pts is None or packet.time_base is None:
        return 0.0
    return float((packet.pts + (packet.duration or 0)) * packet.time_base)


def _clip_times(
    stream: VideoStream, times: list[Any], decode_times: list[Any], durations: np.ndarray, shown: np.ndarray
) -> ClipTimes:
    """Return the times of the shown frames.

    Frames are shown in the order of their presentation times, also where those are wrong for the single packet: a
    stream that was copied out of a format without presentation times has those of the decode order. Without them the
    decode times serve, and without those the frame rate.

    Args:
        times, decode_times: of N packets in decode order; None where a packet has none.
        durations: integers (N,), 0 where a packet has none.
        shown: bool (N,).
    """
    in_order = all(time is not None for time in decode_times) and bool((np.diff(np.array(decode_times)) >= 0).all())
    for candidates in (times, decode_times) if in_order and stream.time_base else ():
        ticks = [time for time, visible in zip(candidates, shown, strict=True) if visible]
        if all(tick is not None for tick in ticks) and len(set(ticks)) == len(ticks):
            starts = np.array(ticks, np.int64)
            order = np.argsort(starts)
            lengths = durations[shown][order]
            known = lengths[lengths > 0]
            if not len(known):
                known = np.diff(starts[order]) if len(starts) > 1 else np.array([_frame_ticks(stream)])
            assert stream.time_base is not None
            return ClipTimes.of_ticks(starts[order], int(starts.max() + known[-1]), stream.time_base)
    return ClipTimes.evenly(int(shown.sum()), stream.average_rate or stream.guessed_rate or 0)


def _frame_ticks(stream: VideoStream) -> int:
    rate = stream.average_rate or stream.guessed_rate
    return round(1 / (rate * stream.time_base)) if rate and stream.time_base else 0


def check_complete(
    path: str,
    container: InputContainer,
    stream: VideoStream | AudioStream,
    latest: float,
    num_frames: int,
    damaged: bool,
) -> None:
    """Refuse a file that was cut off: MP4 lists the place of every frame, Matroska states its length.

    Args:
        latest: time in seconds at which the last packet ends.
        num_frames: number of frames that were found.
        damaged: whether a packet was marked as damaged.

    Raises:
        MediaError: a part of the file is missing or damaged.
    """
    file_size = Path(path).stat().st_size
    if "mp4" in container.format.name:
        entries: Any = stream.index_entries
        lost = sum(1 for entry in entries if entry.pos + entry.size > file_size)
        if lost:
            raise MediaError(path, f"is cut off: {lost} of {len(entries)} frames are missing at its end")
    stated = (container.duration or 0) / av.time_base
    if "matroska" in container.format.name and latest < min(0.9 * stated, stated - 1):
        raise MediaError(path, f"is cut off: it ends after {latest:.1f} of {stated:.1f} seconds")
    if damaged:
        raise MediaError(path, f"is damaged or cut off after {num_frames} frames")


def _why_not_opened(path: str, expected: str) -> str:
    if image_size(path):
        return f"is an image file where {'a video' if expected == 'video' else 'sound'} is expected"
    with Path(path).open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp":
        return "its index (moov) is missing: the file is cut off, copy or download it again"
    return f"is not a {expected} file of a known format"
