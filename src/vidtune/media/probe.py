"""Metadata of media files, read from headers and packets without decoding a pixel, and a cache of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from av.container import InputContainer
from av.video.stream import VideoStream

from vidtune.errors import ItemError
from vidtune.machine.records import RecordWriter, read_records
from vidtune.media.audio import audio_seconds
from vidtune.media.clip_times import ClipTimes, Part
from vidtune.media.container import open_media, open_video, open_video_stream, picture_streams
from vidtune.media.file_version import FileVersion, file_version
from vidtune.media.first_look import is_folder, media_errors
from vidtune.media.image import image_size, list_frames
from vidtune.media.mp4_boxes import has_matrix
from vidtune.media.orientation import Orientation, has_projection, orientation_of
from vidtune.media.packets.bitstream import may_turn
from vidtune.media.packets.table import PacketTable, read_packet_table


@dataclass(frozen=True)
class MediaInfo:
    """Metadata of a media file.

    Args:
        kind: "video", "image", "frames" (a folder of frame images), or "audio" (sound alone).
        width, height: size in pixels as shown, after rotation; 0 for sound alone.
        times: number of frames that decoding shows, and their times; they are unknown for images and folders.
        has_audio: whether the file has an audio stream.
        rotation: counterclockwise degrees (0, 90, 180, 270) applied to the stored pixels.
        audio_seconds: length of the sound in seconds, from the start of the file; 0 without sound.
        mirrored: left and right of the stored pixels are exchanged before the rotation.
        seconds: seconds of the part of a file that was asked for, see :meth:`of_part`; None: the whole file.
    """

    kind: Literal["video", "image", "frames", "audio"]
    width: int
    height: int
    times: ClipTimes
    has_audio: bool
    rotation: int
    audio_seconds: float = 0.0
    mirrored: bool = False
    seconds: float | None = None

    @property
    def num_frames(self) -> int:
        """Number of frames that decoding shows; 1 for an image, 0 for sound alone."""
        return self.times.num_frames

    @property
    def fps(self) -> float:
        """Mean number of frames per second; 0 for images, folders and sound alone."""
        return self.times.fps

    @property
    def duration(self) -> float:
        """Seconds; 0 for images, and for folders unless a frame rate is given for them."""
        if self.seconds is not None:
            return self.seconds
        return self.audio_seconds if self.kind == "audio" else self.times.duration

    def of_part(self, path: str, part: Part | None) -> "MediaInfo":
        """Return the metadata of a part of the file; None: of the whole file. A picture with a frame rate is a clip.

        Raises:
            ItemError: there is no such part; the file may serve others.
        """
        if self.kind == "image" and part is not None and part.fps is not None:
            return replace(self, kind="frames").of_part(path, part)
        if part is None or (self.kind in ("image", "audio") and not part.is_cut):
            return self
        with part_errors(path):
            if self.kind == "image":
                raise ValueError("is a picture: it has no part from a start to an end")
            heard = 0.0
            if self.audio_seconds and part.is_cut:
                length = max(self.audio_seconds, self.times.duration)
                start, end = part.seconds_of(length)
                heard = max(min(end, self.audio_seconds) - start, 0.0)
            elif self.audio_seconds:
                heard = self.audio_seconds
            if self.kind == "audio":
                return replace(self, audio_seconds=heard, seconds=heard)
            _, times, seconds = part.of(self.times)
            return replace(self, times=times, audio_seconds=heard, seconds=seconds if part.is_cut else None)


@contextmanager
def part_errors(path: str) -> Iterator[None]:
    """Context manager that turns the ValueError of an impossible part of a file into an `ItemError`."""
    try:
        yield
    except ValueError as error:
        raise ItemError(path, str(error)) from None


_VERSION = 3
"""Meaning of the records of `ProbeCache`; records of another version are not read."""


def probe(path: str | os.PathLike[str]) -> MediaInfo:
    """Read the metadata of a video file, a file of sound alone, an image file or a folder of frame images.

    Raises:
        MediaError: missing, empty, cut off, of an unknown format, or with neither a video stream nor sound.
    """
    path = os.fspath(path)
    if is_folder(path):
        paths = list_frames(path)
        size = image_size(paths[0])
        width, height = size if size else (0, 0)
        return MediaInfo("frames", width, height, ClipTimes.unknown(len(paths)), False, 0)
    size = image_size(path)
    if size:
        return MediaInfo("image", *size, ClipTimes.unknown(1), False, 0)
    with open_media(path, "video") as container:
        if container.streams.audio and not picture_streams(container):
            seconds = audio_seconds(container)
            return MediaInfo("audio", 0, 0, ClipTimes.unknown(0), True, 0, seconds)
        stream = open_video_stream(path, container)
        return probed_info(path, container, stream, read_packet_table(path, container, stream))


def probed_info(path: str, container: InputContainer, stream: VideoStream, table: PacketTable) -> MediaInfo:
    """Return the metadata of an open video as `probe` does."""
    return video_info(container, stream, table, stated_orientation(path, container, stream, table))


def video_info(
    container: InputContainer, stream: VideoStream, table: PacketTable, orientation: Orientation
) -> MediaInfo:
    """Return the metadata of an open video whose packets have been read."""
    width, height = stream.codec_context.width, stream.codec_context.height
    if orientation.rotation in (90, 270):
        width, height = height, width
    has_audio, seconds = len(container.streams.audio) > 0, audio_seconds(container)
    rotation, mirrored = orientation.rotation, orientation.mirrored
    return MediaInfo("video", width, height, table.clip, has_audio, rotation, seconds, mirrored)


def stated_orientation(path: str, container: InputContainer, stream: VideoStream, table: PacketTable) -> Orientation:
    """Return how pictures are turned. Only if something in the file asks for a turn, the first one is decoded."""
    kind, context = container.format.name, stream.codec_context
    asked = may_turn(context.name, table.first, context.extradata)
    asked = asked or ("mp4" in kind and has_matrix(path)) or ("matroska" in kind and has_projection(path))
    if not asked:
        return Orientation()
    with open_video(path) as (opened, pictures):
        return next((orientation_of(frame) for frame in opened.decode(pictures)), Orientation())


class ProbeCache:
    """Metadata of many files, kept in a record file and keyed by path and `file_version`.

    Several processes may use one record file. Errors are not kept: the next run probes such a file again.

    Args:
        sidecar: path of the record file; need not exist.
    """

    def __init__(self, sidecar: Path) -> None:
        self.sidecar = Path(sidecar)
        self._known: dict[tuple[str, FileVersion], MediaInfo] = {}
        for record in read_records(self.sidecar, skip_broken=True):
            with suppress(KeyError, TypeError, ValueError, AttributeError):  # a record of another program
                if record["version"] == _VERSION:
                    info = record["info"] | {"times": ClipTimes(**record["info"]["times"])}
                    size, modified, changed = record["file"]
                    self._known[record["path"], (size, modified, changed)] = MediaInfo(**info)

    def get(self, path: str | os.PathLike[str]) -> MediaInfo:
        """Return the metadata of a file, probed only if the file is new or has changed.

        Raises:
            MediaError: as `probe`.
        """
        path = os.fspath(path)
        with media_errors(path):
            key = (path, file_version(path))
        if key not in self._known:
            info = probe(path)
            with RecordWriter(self.sidecar, shared=True, durable=False) as records:
                records.append({"version": _VERSION, "path": path, "file": key[1], "info": asdict(info)})
            self._known[key] = info
        return self._known[key]
