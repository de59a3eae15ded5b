"""Files that are named after videos: each under the name that a protocol gives it, or under a similar one.

The name of the protocol comes first; the published scripts know no other. Test sets are copied by hand: then come files
of the same name with another extension, with or without the prefix, with the extension written twice, in a subfolder or
another folder of the test set, in other letters' case. Of these the closest counts; where two are equally close, none
does, and both are named.
"""

import difflib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath

from vidtune.errors import UserError
from vidtune.evaluation.protocol import FileLookup
from vidtune.foreign.containment import is_inside, stays_below

VIDEO_EXTENSIONS = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp", ".ogv"),
    *(".asf", ".vob", ".mts", ".m2ts", ".mxf", ".nut", ".f4v"),
)
PICTURE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# Names for which the nearest file is searched; the search compares with every file.
_NEAREST_OF = 20
_DEPTH_ELSEWHERE = 2
_DEPTH_HINTS = 4
_MOST_HINTS = 200_000
_FOLDER = " (a folder)"
_LEADS_OUT = " (a linked folder that leads out of the test set, so that nothing in it is found)"


@dataclass(frozen=True, slots=True)
class Named:
    """What was found for a name.

    Args:
        file: path of the file that has the very name of the protocol; None: there is none.
        similar: path of the one file with a similar name, if there is none with that name.
        looked_for: where it was looked for, which files are near, or between which the name does not decide; None when
            the file has the very name of the protocol.
    """

    file: str | None
    similar: str | None = None
    looked_for: str | None = None


class NamedFiles:
    """Files by the names of videos.

    Args:
        files: paths of the files, with ``/``.
        folder: folder in which the protocol expects them; "" is the folder that paths are relative to.
        prefix: what the protocol writes before the name of a video.
        extensions: extensions in the order of the protocol, with the dot.
        others: further extensions that count as extensions of a name.
        names: all names that will be asked for: a file that is named like one belongs to that one alone.
    """

    def __init__(
        self,
        files: Iterable[str],
        folder: str,
        prefix: str,
        extensions: Sequence[str],
        others: Sequence[str],
        names: Iterable[str],
    ) -> None:
        self.folder, self.prefix, self.extensions = folder, prefix, tuple(extensions)
        self._known = {*extensions, *others}
        self._by_key: dict[str, list[str]] = {}
        for file in files:
            path = PurePosixPath(file)
            if path.suffix.lower() in self._known and not path.name.startswith("."):
                self._by_key.setdefault(self._key(path.name), []).append(file)
        self._owners: dict[str, set[str]] = {}
        self._spellings: dict[str, set[str]] = {}
        for name in {PurePosixPath(name).name for name in names}:
            own = self._stem(name)
            for stem in {own, prefix + own}:
                self._owners.setdefault(stem, set()).add(own)
            self._spellings.setdefault(self._key(name), set()).add(own.removeprefix(prefix))
        self._not_found = 0

    def find(self, name: str) -> Named:
        """Returns the file that is closest to the name of the protocol."""
        wanted = (PurePosixPath(self.folder) / f"{self.prefix}{name}").as_posix()
        tried = wanted + (f" ({', '.join(self.extensions)})" if any(self.extensions) else "")
        ranked = sorted((self._distance(name, wanted, file), file) for file in self._candidates(name))
        near = [file for distance, file in ranked if distance == ranked[0][0]]
        if len(near) == 1:
            exact = near[0].startswith(wanted) and near[0][len(wanted) :] in self.extensions
            return Named(near[0]) if exact else Named(None, near[0], f"not {tried}")
        if near:
            return Named(None, None, f"not {tried}; several could be meant: {', '.join(near[:4])}")
        self._not_found += 1
        nearest = self._nearest(name) if self._not_found <= _NEAREST_OF else None
        return Named(None, None, f"not {tried}" + (f"; nearest: {nearest}" if nearest else ""))

    def _candidates(self, name: str) -> Iterator[str]:
        """Files whose names differ from this one in extension, prefix, folder and case only."""
        own, key = self._stem(PurePosixPath(name).name), self._key(PurePosixPath(name).name)
        # Names may differ in case alone, as ids of YouTube do: then another case is another video.
        case_tells = len(self._spellings.get(key, ())) > 1
        for file in self._by_key.get(key, []):
            stem = self._stem(PurePosixPath(file).name)
            owners = self._owners.get(stem)
            if own in owners if owners else not case_tells or stem.endswith(own.removeprefix(self.prefix)):
                yield file

    def _distance(self, name: str, wanted: str, file: str) -> tuple[bool, ...]:
        """How far a file is from the name of the protocol; the first entry in which files differ decides."""
        path, place = PurePosixPath(file), PurePosixPath(wanted)
        stem, extension = self._stem(path.name), path.suffix.lower()
        stems = [self._stem(PurePosixPath(wanted).name), self._stem(PurePosixPath(name).name)]
        return (
            path.parent != place.parent,
            not path.is_relative_to(self.folder),
            stem.lower() not in [one.lower() for one in stems],
            stem not in stems,
            stem != stems[0],
            _plain(path.name) != _plain(place.name),  # the name has an extension already
            path.name.removesuffix(path.suffix) != place.name,
            *(extension != one for one in self.extensions),
            path.suffix != extension,
        )

    def _nearest(self, name: str) -> str | None:
        near = difflib.get_close_matches(self._key(PurePosixPath(name).name), self._by_key, n=1, cutoff=0.6)
        return self._by_key[near[0]][0] if near else None

    def _stem(self, name: str) -> str:
        """A name without extensions that videos have."""
        stem = _plain(name)
        while (extension := PurePosixPath(stem).suffix) and extension.lower() in self._known:
            stem = stem.removesuffix(extension)
        return stem

    def _key(self, name: str) -> str:
        """A name without extensions, prefixes and case."""
        key = self._stem(name).casefold()
        while self.prefix and key.startswith(self.prefix.casefold()) and len(key) > len(self.prefix):
            key = key[len(self.prefix) :]
        return key


class VideoFiles:
    """The videos of a test set, or its pictures.

    The folder of videos may be a link to another disk. A link inside it may not lead out of it and the test set.

    Args:
        lookup: where the protocol expects them.
        folder: folder of the test set.
        names: name of a video -> (file and entry that name it, key of the name there), for error messages.
        others: extensions that such files have besides those of the protocol.

    Raises:
        UserError: a name or a link leaves the folder.
    """

    def __init__(
        self,
        lookup: FileLookup,
        folder: Path,
        names: Mapping[str, tuple[str, str]],
        others: Sequence[str] = VIDEO_EXTENSIONS,
    ) -> None:
        self.lookup, self.folder = lookup, folder
        self._roots = (folder.resolve(), (folder / lookup.folder).resolve())
        for name, (where, key) in names.items():
            if not name or not stays_below(str(Path(lookup.folder) / f"{lookup.prefix}{name}")):
                raise UserError(f"{where}: {key} {name!r} leaves the folder of the test set; use a plain file name")
        found = {name: self._exact(name) for name in names}
        if None in found.values():
            files = NamedFiles(self._listed(), lookup.folder, lookup.prefix, lookup.extensions, others, names)
            found |= {name: files.find(name) for name, file in found.items() if file is None}
        self.found = _of_one_name_each({name: one for name, one in found.items() if one is not None})
        self._hint()
        for name, one in self.found.items():
            self._require_inside(one.file or one.similar, names[name][0])

    def _exact(self, name: str) -> Named | None:
        """The file that the protocol names; None: it does not exist."""
        stem = self._below_top(f"{self.lookup.prefix}{name}")
        files = (stem + extension for extension in self.lookup.extensions)
        try:
            return next((Named(file) for file in files if (self.folder / file).is_file()), None)
        except OSError:  # such as a name longer than any file's
            return None

    def _below_top(self, file: str) -> str:
        return f"{self.lookup.folder}/{file}" if self.lookup.folder else file

    def _listed(self) -> list[str]:
        """All files in the folder of videos, and those in the folder of the test set and its own folders."""
        inside = [self._below_top(file) for file in walk(self.folder / self.lookup.folder, roots=self._roots)]
        known = set(inside)
        elsewhere = [file for file in walk(self.folder, _DEPTH_ELSEWHERE, self._roots) if file not in known]
        return [*inside, *elsewhere]

    def _hint(self) -> None:
        """Say what lies there under the name of a missing video, but is no video file, or too deep in other folders."""
        missing = [name for name, one in self.found.items() if one.file is None and one.similar is None]
        missing = [name for name in missing if "several" not in str(self.found[name].looked_for)][:_NEAREST_OF]
        if not missing:
            return
        entries = list(islice(walk(self.folder, _DEPTH_HINTS, self._roots, everything=True), _MOST_HINTS))
        outward = next((entry for entry in entries if entry.endswith(_LEADS_OUT)), None)
        for name in missing:
            own = re.escape(without_extension(PurePosixPath(name).name))
            like = re.compile(rf"(?:^|/)(?:{re.escape(self.lookup.prefix)})*{own}(?![^\W_])[^/]*(?:$|/)", re.IGNORECASE)
            near = [entry for entry in entries if like.search(entry)]
            there = min(
                near, key=lambda entry: (not _has_extension(entry), entry.count("/"), len(entry)), default=outward
            )
            if there is not None:
                looked_for = f"{self.found[name].looked_for}; there is {there}"
                self.found[name] = replace(self.found[name], looked_for=looked_for)

    def _require_inside(self, file: str | None, where: str) -> None:
        if file is None:
            return
        inside = PurePosixPath(file).is_relative_to(self.lookup.folder)
        path = self.folder / file
        if not is_inside(path, *(self._roots if inside else self._roots[:1])):
            folder = self._roots[inside]
            raise UserError(f"{where}: {path} is a link that leaves {folder}; copy the video into that folder")


def _of_one_name_each(found: dict[str, Named]) -> dict[str, Named]:
    """Where two names, alike but for the prefix, get one file, it is that of the name it has exactly."""
    names: dict[str, list[str]] = {}
    for name, one in found.items():
        if (file := one.file or one.similar) is not None:
            names.setdefault(file, []).append(name)
    for file, alike in names.items():
        if len({without_extension(_plain(name)).casefold() for name in alike}) < 2:
            continue
        for name in alike:
            if found[name].file is None:
                others = ", ".join(repr(one) for one in alike if one != name)
                found[name] = Named(
                    None, None, f"{found[name].looked_for}; several names are those of {file}: {others}"
                )
    return found


def walk(
    folder: Path, depth: int | None = None, roots: Sequence[Path] | None = None, everything: bool = False
) -> Iterator[str]:
    """Yield the files below a folder relative to it, sorted by folder.

    Args:
        depth: 1 is the folder alone; None: any.
        roots: linked folders are followed where they lead into one of these folders; None: into ``folder``.
        everything: yield also what is no file, such as folders and broken links, with a note that says so.
    """
    roots = (folder.resolve(),) if roots is None else roots
    yield from _walk(folder, "", depth, roots, everything, frozenset({os.path.realpath(folder)}))


def _walk(
    folder: Path, relative: str, depth: int | None, roots: Sequence[Path], everything: bool, above: frozenset[str]
) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return
    below = []
    for entry in found:
        note = _note(entry, roots)
        # A name that is no UTF-8 can be that of no video.
        printable = os.fsencode(entry.name).decode(errors="backslashreplace")
        if everything or (note is None and printable == entry.name):
            yield relative + printable + (note or "")
        if note == _FOLDER:
            below.append(entry.name)
    if depth is not None and depth <= 1:
        return
    for name in below:
        real = os.path.realpath(folder / name)
        if real not in above:  # a link to a folder that contains it
            deeper = None if depth is None else depth - 1
            yield from _walk(folder / name, f"{relative}{name}/", deeper, roots, everything, above | {real})


def _note(entry: "os.DirEntry[str]", roots: Sequence[Path]) -> str | None:
    """What an entry of a folder is if it is no file."""
    try:
        if entry.is_file():
            return None
        if entry.is_dir():
            return _FOLDER if not entry.is_symlink() or is_inside(entry.path, *roots) else _LEADS_OUT
    except OSError:  # such as a link to itself
        pass
    return " (a broken link)" if entry.is_symlink() else " (no file)"


def _has_extension(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in VIDEO_EXTENSIONS


def without_extension(name: str) -> str:
    """A name without one extension of a video."""
    return str(PurePosixPath(name).with_suffix("")) if _has_extension(name) else name


def _plain(name: str) -> str:
    """One spelling of letters with accents: file systems differ in it."""
    return unicodedata.normalize("NFC", name)
