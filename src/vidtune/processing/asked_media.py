"""Media of a question that is asked by hand: files by stream, stored features in their place, a target, seconds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vidtune.data.sample import MediaRef
from vidtune.errors import UserError
from vidtune.media.boxes.located import BoxAt, LocatedTarget
from vidtune.media.clip_times import Part
from vidtune.media.feature_file import FEATURE_SUFFIXES, is_feature_file
from vidtune.media.pool import LoadJob, MediaPool
from vidtune.media.probe import MediaInfo
from vidtune.processing.dialect import Dialect

Paths = str | Path | Sequence[str | Path] | None


def as_paths(given: Paths) -> list[Path]:
    """One path, several or none, as a list."""
    if given is None:
        return []
    return [Path(given)] if isinstance(given, str | Path) else [Path(path) for path in given]


def require_files(files: Mapping[str, Sequence[Path]]) -> None:
    """Raise UserError for the first file that does not exist."""
    absent = next((path for paths in files.values() for path in paths if not path.exists()), None)
    if absent is not None:
        raise UserError(f"{absent}: no such file")


def asked_media(
    files: Mapping[str, Sequence[Path]],
    features: Mapping[str, str | Path],
    dialect: Dialect,
    part: Part | None = None,
) -> tuple[MediaRef, ...]:
    """References to the media of a question, in the order of the streams in ``files``.

    Args:
        files: stream -> files or folders of frames.
        features: stream -> file of stored tower features that the stream reads in place of the file.
        dialect: of the model's system; tells which streams read the same file.
        part: which seconds and frames of the files of the stream "video" are read, see `asked_part`; None: the whole
            files, by the rules of the model.

    Raises:
        UserError: a file that does not exist, features of no known kind, features of several files, or a part of no
            video, or of several where it names seconds.
    """
    require_files(files)
    videos = len(files.get("video", ()))
    if part is not None and (part.is_cut or part.frames_at) and videos != 1:
        options = "--frames-at: is" if part.frames_at else "--start and --end: are"
        raise UserError(f"{options} for one video; {videos} are given")
    if part is not None and not videos:
        raise UserError("--frames: is for videos; none is given")
    stored = _features_by_owner(features, dialect)
    refs: list[MediaRef] = []
    for stream in dict.fromkeys((*files, *stored)):
        paths, replacing = [str(path.absolute()) for path in files.get(stream, ())], tuple(stored.get(stream, ()))
        if replacing and len(paths) > 1:
            raise UserError(f"--features {replacing[0][0]}: can stand in for one {stream} file only, not {len(paths)}")
        refs += [MediaRef(stream, path, replacing) for path in paths or ([""] if replacing else [])]
    return tuple(ref.read_as(part) if ref.stream == "video" and ref.path else ref for ref in refs)


def _features_by_owner(features: Mapping[str, str | Path], dialect: Dialect) -> dict[str, list[tuple[str, str]]]:
    """Stream that stands in the prompt -> (stream, file of features) of it and of its companions."""
    owners = {companion: owner for owner, companions in dialect.companions.items() for companion in companions}
    found: dict[str, list[tuple[str, str]]] = {}
    for stream, path in features.items():
        if not Path(path).is_file():
            raise UserError(f"--features {stream}: {path}: no such file")
        if not is_feature_file(str(path)):
            raise UserError(f"--features {stream}: {path}: features are read from {', '.join(FEATURE_SUFFIXES)}")
        found.setdefault(owners.get(stream, stream), []).append((stream, str(Path(path).absolute())))
    return found


def target_media(target: LocatedTarget, streams: tuple[str, str], most: int) -> tuple[MediaRef, ...]:
    """References to a target: its asked box, and the boxes of its track.

    Args:
        streams: names of the two streams.
        most: largest number of boxes of the track that the second stream takes.
    """
    boxes = ((target.key,), target.used(most))
    return tuple(_of_boxes(stream, target, some) for stream, some in zip(streams, boxes, strict=True))


def _of_boxes(stream: str, target: LocatedTarget, boxes: Sequence[BoxAt]) -> MediaRef:
    corners, numbers = tuple(box.box for box in boxes), tuple(float(box.frame) for box in boxes)
    return MediaRef(stream, target.video, extras=(("boxes", corners), ("frames", numbers)))


def streams_without_files(media: Sequence[MediaRef]) -> set[str]:
    """Streams that have neither a file nor features, because only features of their companions were given."""
    return {ref.stream for ref in media if ref.read_by(ref.stream) is None}


def seconds_of(media: Sequence[MediaRef], timeout: float) -> float | None:
    """Duration by which the moments in an answer are told; None unless exactly one of the files has a duration.

    Args:
        timeout: seconds that reading the metadata of one file may take.

    Raises:
        MediaError: a file cannot be read, or not in time.
    """
    infos = _infos([(ref.path, ref.part) for ref in media if ref.path], timeout)
    timed = [info.duration for info in infos if info.duration > 0]
    return timed[0] if len(timed) == 1 else None


def info_of(path: Path, timeout: float) -> MediaInfo:
    """Metadata of a file or of a folder of frames.

    Args:
        timeout: seconds that reading them may take.

    Raises:
        MediaError: the file cannot be read, or not in time.
    """
    [info] = _infos([(str(path), None)], timeout)
    return info


def _infos(files: Sequence[tuple[str, Part | None]], timeout: float) -> list[MediaInfo]:
    if not files:
        return []
    infos: list[MediaInfo] = []
    with MediaPool(1, timeout) as pool:  # a worker process, because only killing it ends a stuck read
        for result in pool.load(LoadJob(path, None, part=part) for path, part in files):
            if result.error is not None:
                raise result.error
            assert result.info is not None
            infos.append(result.info)
    return infos
