"""Lists of data sets in YAML, the form of LLaVA-NeXT's trainers: a file of conversations for each set.

    datasets:
      - json_path: annotations/clips.jsonl        # a JSON list, or JSON lines
        sampling_strategy: "first:25%"            # all (default), first:N, first2:N, ..., end:N, random:N
        data_root: https://example.org/clips      # folder of the media
        media_type: video                         # image, video, text or mix
        video_read_type: img                      # folders of frames
        frame_rate: 3                             # of ours: frames per second that its videos are taken to have

A path is relative to the folder of the file. Published lists name web addresses; `roots` of the recipe maps them, or
the start of a path, to folders here. For sets of `text` and `mix` the folder of the media is that of the recipe. A
file or folder shows how it is read; but `gif`, `img` and `frame` mean one frame per second (as in the data loader of
arXiv:2501.00574) where there is no `frame_rate`.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidtune.data.sources import DataSet
from vidtune.errors import UserError
from vidtune.foreign.yaml_document import Document, Key, read_yaml
from vidtune.recipe.sampling import ALL, known_sampling
from vidtune.spelling import suggestion

LIST = "datasets"
KEYS = ("json_path", "sampling_strategy", "data_root", "media_type", "video_read_type", "frame_rate")
MEDIA_TYPES = ("image", "video", "text", "mix")
WHOLE_PATHS = ("text", "mix")
"""Media types whose annotations hold whole paths, to which no root is added."""
READ_TYPES = ("decord", "av", "gif", "img", "frame", "lazy")
ONE_PER_SECOND = ("gif", "img", "frame")
"""Readers that take a video to have one frame per second."""
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class Mixture:
    """The format of lists of data sets; a `SetList`."""

    def data_sets(self, path: Path, media: str | None, roots: Mapping[str, str]) -> list[DataSet]:
        """Returns all sets of a file in order, also those that are not there; see `SetList.data_sets`."""
        document = read_yaml(path).require_set()
        value = document.value
        entries = value.get(LIST) if isinstance(value, dict) else None
        if not isinstance(entries, list):
            raise UserError(f"{path}: expected a mapping with the key {LIST!r}: a list of data sets")
        folders = _Folders(path.parent, roots)
        return [_data_set(_Entry(document, (LIST, number), one), media, folders) for number, one in enumerate(entries)]


class _Entry:
    """The values of one set in the file.

    Raises:
        UserError: no mapping, or an unknown key; says where.
    """

    def __init__(self, document: Document, path: tuple[Key, ...], value: Any) -> None:
        self._document, self._path = document, path
        self.place = document.place(path)
        if not isinstance(value, dict):
            raise UserError(f"{self.place}: expected a mapping that starts with json_path")
        self._values = value
        if unknown := next((key for key in value if key not in KEYS), None):
            raise self.wrong(unknown, f"unknown key {unknown!r}; {suggestion(unknown, KEYS)}")

    def text(self, key: str) -> str | None:
        """The text at a key, without white space around it; None: there is none."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(key, f"{key}: expected a text, not {value!r}")
        return value.strip()

    def word(self, key: str, known: tuple[str, ...]) -> str | None:
        """The text at a key, which must be one of the known words."""
        word = self.text(key)
        if word is not None and word not in known:
            raise self.wrong(key, f"unknown {key} {word!r}; {suggestion(word, known)}")
        return word

    def rate(self, key: str) -> float | None:
        """The frame rate at a key; None: there is none."""
        value = self._values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self.wrong(key, f"{key}: expected a number above 0, not {value!r}")
        return float(value)

    def wrong(self, key: str, message: str) -> UserError:
        """An error about the value at a key."""
        return UserError(f"{self._document.place((*self._path, key))}: {message}")


class _Folders:
    """Finds addresses and paths of a file on this machine.

    Args:
        base: folder of the file.
        roots: start of an address or path -> local folder.
    """

    def __init__(self, base: Path, roots: Mapping[str, str]) -> None:
        self._base = base
        self._roots = {start.rstrip("/"): folder for start, folder in roots.items()}

    def local(self, address: str) -> str | None:
        """Returns the local path of an address or path; None for a web address that no root stands for."""
        address = address.rstrip("/")
        starts = [start for start in self._roots if f"{address}/".startswith(f"{start}/")]
        if starts:
            start = max(starts, key=len)
            return str(Path(self._roots[start], address[len(start) :].lstrip("/")))
        if ADDRESS.match(address):
            return None
        return str(self._base / Path(address).expanduser())

    def missing(self, address: str) -> str:
        """Why an address or path is not there, as a folder with files or as a file; empty: it is there."""
        local = self.local(address)
        if local is None:
            return f"no folder stands for {address}; name one in roots"
        path = Path(local)
        try:
            if path.is_dir():
                return "" if next(path.iterdir(), None) else f"the folder {local} is empty"
            return "" if path.is_file() else f"{local} does not exist"
        except OSError as error:  # no permission, or a name that is too long
            return f"{local} cannot be read: {error.strerror}"


def _data_set(entry: _Entry, media: str | None, folders: _Folders) -> DataSet:
    name, root = entry.text("json_path"), entry.text("data_root")
    if name is None:
        raise UserError(f"{entry.place}: the key 'json_path' is missing")
    sampling = entry.text("sampling_strategy") or ALL
    try:
        known_sampling(sampling)
    except ValueError as error:
        raise entry.wrong("sampling_strategy", f"sampling_strategy: {error}") from None
    rate = entry.rate("frame_rate")
    if entry.word("video_read_type", READ_TYPES) in ONE_PER_SECOND and rate is None:
        rate = 1.0
    if entry.word("media_type", MEDIA_TYPES) in WHOLE_PATHS:
        root = None
    missing = folders.missing(name) or ("" if root is None else folders.missing(root))
    settings: dict[str, Any] = {
        "annotations": folders.local(name),
        "format": None,
        "media": media if root is None else folders.local(root),
        "sampling": sampling,
        "frame_rate": rate,
        "roots": {},
        "missing_sets": None,
    }
    return DataSet(entry.place, name, sampling, settings, missing)


MIXTURE = Mixture()
