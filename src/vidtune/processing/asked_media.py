"""Media of a question that is asked by hand: files by stream, stored features in their place, seconds of the clip."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vidtune.data.sample import MediaRef
from vidtune.errors import UserError
from vidtune.media.feature_file import FEATURE_SUFFIXES, is_feature_file
from vidtune.media.pool import LoadJob, MediaPool
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
    files: Mapping[str, Sequence[Path]], features: Mapping[str, str | Path], dialect: Dialect
) -> tuple[MediaRef, ...]:
    """References to the media of a question, in the order of the streams in ``files``.

    Args:
        files: stream -> files or folders of frames.
        features: stream -> file of stored tower features that the stream reads in place of the file.
        dialect: of the model's system; tells which streams read the same file.

    Raises:
        UserError: a file that does not exist, features of no known kind, or features of several files.
    """
    require_files(files)
    stored = _features_by_owner(features, dialect)
    refs: list[MediaRef] = []
    for stream in dict.fromkeys((*files, *stored)):
        paths, replacing = [str(path.resolve()) for path in files.get(stream, ())], tuple(stored.get(stream, ()))
        if replacing and len(paths) > 1:
            raise UserError(f"--features {replacing[0][0]}: can stand in for one {stream} file only, not {len(paths)}")
        refs += [MediaRef(stream, path, replacing) for path in paths or ([""] if replacing else [])]
    return tuple(refs)


def _features_by_owner(features: Mapping[str, str | Path], dialect: Dialect) -> dict[str, list[tuple[str, str]]]:
    """Stream that stands in the prompt -> (stream, file of features) of it and of its companions."""
    owners = {companion: owner for owner, companions in dialect.companions.items() for companion in companions}
    found: dict[str, list[tuple[str, str]]] = {}
    for stream, path in features.items():
        if not Path(path).is_file():
            raise UserError(f"--features {stream}: {path}: no such file")
        if not is_feature_file(str(path)):
            raise UserError(f"--features {stream}: {path}: features are read from {', '.join(FEATURE_SUFFIXES)}")
        found.setdefault(owners.get(stream, stream), []).append((stream, str(Path(path).resolve())))
    return found


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
    jobs = [LoadJob(ref.path, None) for ref in media if ref.path]
    if not jobs:
        return None
    timed: list[float] = []
    with MediaPool(1, timeout) as pool:  # a worker process, because only killing it ends a stuck read
        for result in pool.load(jobs):
            if result.error is not None:
                raise result.error
            if result.info is not None and result.info.duration > 0:
                timed.append(result.info.duration)
    return timed[0] if len(timed) == 1 else None
