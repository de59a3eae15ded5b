"""Opening media files, and refusing those that were cut off."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from vidtune.errors import MediaError
from vidtune.media.first_look import check_file, media_errors, open_file
from vidtune.media.image import image_size
from vidtune.media.mp4_boxes import lost_fragment
from vidtune.media.stated_size import stated_end_of_frames

# Formats whose files hold all their data. Playlists and concatenation scripts, which name other files, are left out.
CONTAINER_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg,mpegvideo,flv,live_flv,ogg,asf,rm,mxf,nut,ivf,dv,"
    "wtv,h264,hevc,av1,obu,m4v,yuv4mpegpipe,mp3,wav,aac,flac"
)
# Formats whose header states the length of the file.
_STATED_LENGTH = ("matroska", "flv", "avi")
_Stream = TypeVar("_Stream", VideoStream, AudioStream)


@contextmanager
def open_media(path: str, expected: Literal["video", "sound"]) -> Iterator[InputContainer]:
    """Context manager that opens a local file of video or sound.

    Errors of the file system, of FFmpeg and of senseless numbers inside the ``with`` block become `MediaError`.

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
            container = av.open(str(Path(path).absolute()), options=options, metadata_errors="replace")
        except (av.error.InvalidDataError, av.error.ArgumentError):
            raise MediaError(path, _why_not_opened(path, expected)) from None
        with container:
            yield container


def picture_streams(container: InputContainer) -> list[VideoStream]:
    """Return the video streams of a file, without cover pictures."""
    return [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]


@contextmanager
def open_video(path: str, threads: int = 1) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Context manager that opens a local video file, as `open_media` does, and its video stream.

    Args:
        threads: number of decoder threads; 1 decodes in the calling thread.

    Raises:
        MediaError: as `open_media`, or without a video stream.
    """
    with open_media(path, "video") as container:
        yield container, open_video_stream(path, container, threads)


def default_stream(streams: Sequence[_Stream]) -> _Stream:
    """Return the first stream that is marked as the default; the first one where none is."""
    return next((stream for stream in streams if stream.disposition & av.stream.Disposition.default), streams[0])


def open_video_stream(path: str, container: InputContainer, threads: int = 1) -> VideoStream:
    """Return the video stream of an open file, ready to be decoded: the first one that is marked as the default.

    Raises:
        MediaError: there is none, or its codec is unknown.
    """
    streams = picture_streams(container)
    if not streams:
        raise MediaError(path, "has no video stream")
    stream = default_stream(streams)
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


def streams_to_demux(container: InputContainer, stream: VideoStream | AudioStream) -> list[Any]:
    """Return the streams to read: all, if only the longest one shows whether the file is complete; else this one."""
    return list(container.streams) if container.format.name.startswith(_STATED_LENGTH) else [stream]


def packet_end(packet: Packet) -> float:
    """Return the time in seconds at which a packet ends; 0 if it has no time."""
    start = packet.dts if packet.pts is None else packet.pts
    if start is None or packet.time_base is None:
        return 0.0
    return float((start + (packet.duration or 0)) * packet.time_base)


def check_complete(
    path: str,
    container: InputContainer,
    stream: VideoStream | AudioStream,
    latest: float,
    num_frames: int,
    damaged: bool,
) -> None:
    """Refuse a file that was cut off: MP4 lists the place of every frame, some others state their length.

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
        if lost_fragment(path):
            raise MediaError(path, f"is cut off after {num_frames} frames: fragments are missing at its end")
    stated = (container.duration or 0) / av.time_base
    if latest and container.format.name.startswith(_STATED_LENGTH) and latest < min(0.9 * stated, stated - 1):
        raise MediaError(path, f"is cut off: it ends after {latest:.1f} of {stated:.1f} seconds")
    if stated_end_of_frames(path) > file_size:
        raise MediaError(path, f"is cut off: it holds {file_size} of {stated_end_of_frames(path)} bytes")
    if damaged:
        raise MediaError(path, f"is damaged or cut off after {num_frames} frames")


def _why_not_opened(path: str, expected: str) -> str:
    if image_size(path):
        return f"is an image file where {'a video' if expected == 'video' else 'sound'} is expected"
    with open_file(path) as file:
        head = file.read(12)
    if head[4:8] == b"ftyp":
        return "its index (moov) is missing: the file is cut off, copy or download it again"
    return f"is not a {expected} file of a known format"
