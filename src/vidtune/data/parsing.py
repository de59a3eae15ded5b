"""Parses annotation files into tables on disk, and finds out what each file holds as a whole.

A file of conversations is known by what it holds: by the hash of its items in the plain form, as ``vidtune data
convert`` writes them. So a file that was written in another form or layout is the same data, and trains in the same
order. Other formats are known by their bytes.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vidtune.data.annotation import Annotation
from vidtune.data.forms.item import written
from vidtune.data.forms.media import STREAMS
from vidtune.data.forms.records import UNUSABLE
from vidtune.foreign.documents import read_object
from vidtune.foreign.files import CONTENT_LIMIT, open_foreign, read_foreign, reading
from vidtune.machine.files import atomic_folder
from vidtune.registry import ANNOTATIONS
from vidtune.spelling import counted, damaged

FORMAT_VERSION = 6
"""Version of parsed tables. A new version parses files again; samples and their order in training stay the same."""
BLOB = "records.bin"
COLUMNS = ("offsets", "word_lengths", "has_media", "by_id")
ABOUT = "about.json"
NAMED = 8
"""Number of unknown keys that a note names."""


@dataclass(frozen=True)
class Parsed:
    """What is known of an annotation file as a whole.

    Args:
        content: hash of what it holds.
        file: sha256 of its bytes.
        root: media folder below which its absolute paths were found; None: it has none.
        forms: number of its records of each form.
        unknown: number of its records that have a key which is not read.
        samples: number of its records.
    """

    content: str = ""
    file: str = ""
    root: str | None = None
    forms: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    samples: int = 0

    def notes(self) -> list[str]:
        """Returns what to tell a user of the file: several forms, keys that are not read."""
        found = []
        forms = {form: number for form, number in self.forms.items() if form != UNUSABLE}
        if len(forms) > 1:
            told = ", ".join(f"{counted(number, 'record')} with {form}" for form, number in forms.items())
            found.append(f"records of several forms: {told}")
        if self.unknown:
            keys = [f"{key} ({number})" for key, number in self.unknown.items()]
            more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
            found.append(f"keys that are not read, with the number of records: {', '.join(keys[:NAMED])}{more}")
        return found


def parsed_folder(path: Path, format: str, media: Path | None, cache: Path) -> Path:
    """Returns the folder of the parsed table of a file; parses it if that was not done before.

    Args:
        format: name of the annotation format.
        media: folder of its media; None: there is none.
        cache: folder of parsed tables.

    Raises:
        UserError: the file cannot be read, or holds no list of records; says where.
    """
    with open_foreign(path, limit=CONTENT_LIMIT) as file, reading(path):
        file_hash = hashlib.file_digest(file, "sha256").hexdigest()
    kind = "" if format == "conversations" else f"-{format}"
    folder = cache / f"{file_hash[:32]}{kind}-v{FORMAT_VERSION}"
    for place in (folder, folder.with_name(f"{folder.name}-{_short(media)}")):
        if not _is_whole(place):
            with suppress(FileExistsError), atomic_folder(place) as building:  # it exists: another process was faster
                write_table(ANNOTATIONS[format](path, read_foreign(path)), building, media, file_hash)
        if read_about(place).root in (None, _root(media)):
            return place
    raise AssertionError(f"{folder}: a table of another media folder")


def _is_whole(folder: Path) -> bool:
    """Whether a folder holds a parsed table. A damaged one, which is said, is deleted: it can be made again."""
    if not folder.is_dir():
        return False
    try:
        columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in COLUMNS}
        offsets, samples = columns["offsets"], read_about(folder).samples
        kinds = {name: (column.dtype.kind, column.shape) for name, column in columns.items()}
        whole = {"offsets": ("i", (samples + 1,)), "word_lengths": ("i", (samples,))}
        if kinds != {**whole, "has_media": ("b", (samples,)), "by_id": ("b", (samples,))}:
            raise ValueError("its columns do not fit")
        if offsets[0] != 0 or offsets[-1] != (folder / BLOB).stat().st_size or (np.diff(offsets) < 0).any():
            raise ValueError(f"{BLOB} is not what its columns say")
    except Exception as error:  # of numpy and JSON, for a damaged file
        warnings.warn(damaged(folder, error, "its annotations are parsed again"), stacklevel=2)
        shutil.rmtree(folder, ignore_errors=True)
        return False
    return True


def read_about(folder: Path) -> Parsed:
    """Returns what the parsed table in a folder says of its file."""
    return Parsed(**read_object(folder / ABOUT))


def write_table(annotations: Iterable[Annotation], folder: Path, media: Path | None, file_hash: str) -> None:
    """Write the table of the annotations of one file into an empty folder.

    Args:
        media: folder below which absolute paths become relative ones; None: there is none.
        file_hash: sha256 of the file.
    """
    offsets, word_lengths, has_media, by_id = [0], [], [], []
    digest, plain = hashlib.sha256(b"["), True
    forms: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    root = None
    with (folder / BLOB).open("wb") as blob:
        for number, given in enumerate(annotations):
            annotation = given if media is None else below(given, media)
            root = _root(media) if annotation is not given else root
            blob.write(_record(annotation))
            offsets.append(blob.tell())
            word_lengths.append(annotation.word_length)
            has_media.append(bool(annotation.media))
            by_id.append(any(path is None for _, path in annotation.media))
            if annotation.item is None:
                plain = False
            else:
                digest.update((("," if number else "") + written(annotation.item)).encode("ascii"))
            forms[annotation.form] += bool(annotation.form)
            unknown.update(annotation.unknown)
    digest.update(b"\n]" if word_lengths else b"]")
    content = digest.hexdigest() if plain else file_hash
    used, left = ({key: number for key, number in found.most_common() if number} for found in (forms, unknown))
    about = Parsed(content, file_hash, root, used, left, samples=len(word_lengths))
    columns: tuple[np.ndarray, ...] = (
        np.array(offsets, np.int64),
        np.array(word_lengths, np.int32),
        np.array(has_media, bool),
        np.array(by_id, bool),
    )
    for name, column in zip(COLUMNS, columns, strict=True):
        np.save(folder / f"{name}.npy", column)
    (folder / ABOUT).write_text(json.dumps(asdict(about)))


def below(annotation: Annotation, media: Path) -> Annotation:
    """Returns an annotation with paths relative to the media folder in the place of absolute ones below it."""
    if not any(path is not None and path.startswith("/") for _, path in annotation.media):
        return annotation
    roots = dict.fromkeys((os.path.abspath(media), os.path.realpath(media)))  # noqa: PTH100

    def relative(path: Any) -> Any:
        if not isinstance(path, str):
            return path
        inside = (path[len(root) :].lstrip("/") for root in roots if path.startswith(root.rstrip("/") + "/"))
        return next(inside, path)

    item = annotation.item
    if item is not None:
        keys = [key for key in (*STREAMS, "video_clip") if key in item]
        item = item | {
            key: [relative(one) for one in item[key]] if isinstance(item[key], list) else relative(item[key])
            for key in keys
        }
    moved = tuple((stream, relative(path)) for stream, path in annotation.media)
    return annotation if moved == annotation.media else replace(annotation, media=moved, item=item)


def _record(annotation: Annotation) -> bytes:
    turns = [(turn.role, turn.text) for turn in annotation.turns]
    times = (annotation.times.duration, annotation.times.marks) if annotation.times else (None, None)
    record = [annotation.original_id, turns, annotation.media, *times]
    record += [
        annotation.extras or None,
        annotation.frames or None,
        annotation.problem,
        annotation.parts or None,
    ]
    while record[-1] is None:
        record.pop()
    # ASCII with escapes, because JSON strings may hold lone surrogates, which UTF-8 cannot.
    return json.dumps(record).encode("ascii")


def _root(media: Path | None) -> str | None:
    return None if media is None else os.path.abspath(media)  # noqa: PTH100


def _short(media: Path | None) -> str:
    return hashlib.sha256(str(_root(media)).encode(errors="surrogatepass")).hexdigest()[:8]
