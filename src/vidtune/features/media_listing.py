"""The media files of a folder, the streams that read them, and the share of one process."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vidtune.data.sample import MediaRef
from vidtune.features.tower_stream import TowerStream
from vidtune.media.feature_file import is_feature_file
from vidtune.media.image import FRAME_SUFFIXES
from vidtune.processing.processor import VideoLMProcessor

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts"})
AUDIO_SUFFIXES = frozenset({".wav", ".mp3", ".flac", ".m4a", ".aac", ".ogg", ".opus"})


def media_files(folder: Path) -> list[str]:
    """Returns all files below a folder whose suffix is that of a media file, sorted."""
    suffixes = VIDEO_SUFFIXES | AUDIO_SUFFIXES | FRAME_SUFFIXES
    return sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in suffixes)


def readable_by(stream: TowerStream, path: str) -> bool:
    """Whether a stream reads files with the suffix of a file."""
    kind, suffix = stream.preprocessing.kind, Path(path).suffix.lower()
    if "image" in kind:
        return suffix in FRAME_SUFFIXES
    if "video" in kind:
        return suffix in VIDEO_SUFFIXES
    return suffix in VIDEO_SUFFIXES | AUDIO_SUFFIXES


def refs_of_folder(folder: Path, streams: Iterable[TowerStream]) -> list[MediaRef]:
    """Returns what the streams read of a folder; the entries of a file follow each other."""
    wanted = list(streams)
    return [MediaRef(s.name, path) for path in media_files(folder) for s in wanted if readable_by(s, path)]


def refs_read(media: Sequence[MediaRef], processor: VideoLMProcessor) -> Iterator[MediaRef]:
    """Yields what is read of the media of one prompt, each file with every stream that may read it.

    Files of stored features are left out. No file is opened.

    Raises:
        SampleProblem: the media do not fit into one prompt.
    """
    for ref in processor.reader.counted(media):
        for stream in (ref.stream, *processor.companions.get(ref.stream, ())):
            read = ref.read_by(stream)
            if read is not None and not is_feature_file(read.path):
                yield read


def share_of(refs: Sequence[MediaRef], rank: int, ranks: int) -> list[MediaRef]:
    """Returns the entries of every ``ranks``-th file, beginning with file number ``rank``."""
    paths = list(dict.fromkeys(ref.path for ref in refs))
    mine = set(paths[rank::ranks])
    return [ref for ref in refs if ref.path in mine]
