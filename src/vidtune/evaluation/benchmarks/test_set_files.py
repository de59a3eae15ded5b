"""Files of a test set: annotations in JSON, videos, and stored features in the place of videos."""

import json
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.protocol import FileLookup


def read_annotations(path: Path) -> tuple[Any, bytes]:
    """Returns the value of a JSON file, and its bytes.

    Raises:
        UserError: the file cannot be read or is not valid JSON; names the file, line and column.
    """
    try:
        content = path.read_bytes()
        return json.loads(content.decode("utf-8-sig")), content
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {error.lineno}, column {error.colno}: not valid JSON ({error.msg})") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply; expected a list of objects") from None


def locate_video(lookup: FileLookup, folder: Path, video: str, where: str, key: str) -> str | None:
    """Returns the path of a video relative to ``folder``; None when no file with one of the extensions exists.

    The folder of videos may be a link to another disk. A link inside it may not lead out of it.

    Args:
        where: file and entry that name the video, for error messages.
        key: key of the name in that entry, for error messages.

    Raises:
        UserError: the name or a link leaves the folder.
    """
    stem = Path(lookup.folder) / f"{lookup.prefix}{video}"
    if not video or stem.is_absolute() or ".." in stem.parts or "\0" in video:
        raise UserError(f"{where}: {key} {video!r} leaves the folder of the test set; use a plain file name")
    videos = (folder / lookup.folder).resolve()
    for extension in lookup.extensions:
        path = folder / f"{stem}{extension}"
        if not path.exists():
            continue
        if not path.resolve().is_relative_to(videos):
            raise UserError(f"{where}: {path} is a link that leaves {videos}; copy the video into that folder")
        return f"{stem}{extension}"
    return None


def feature_files(stream: str, folder: Path) -> dict[str, str]:
    """Returns the feature files of a folder by the name of their video.

    Raises:
        UserError: no such folder.
    """
    from vidtune.media.feature_file import FEATURE_SUFFIXES

    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise UserError(f"features of {stream}: {folder} is no folder")
    files: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in FEATURE_SUFFIXES:
            files.setdefault(path.stem, str(path))
    return files
