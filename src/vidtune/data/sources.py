"""Data sources of a stage: annotation files, folders of them, and files that list data sets.

An annotation format is a reader of samples, or a `SetList`, whose file names other annotation files. Everything after
this file sees sources of one annotation file each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from vidtune.errors import UserError
from vidtune.registry import ANNOTATIONS

DEFAULT_FORMAT = "conversations"
LEAVE_OUT = "leave_out"
ENDINGS = (".json", ".jsonl", ".csv", ".tsv")
"""Endings of the annotation files that a folder may hold."""
NAMED = 3
"""Number of data sets that are left out which a note names."""


class DataSource(Protocol):
    """Annotation file or folder of them, folder of media, folder of stored features per stream; see the recipe's."""

    @property
    def annotations(self) -> str | Path: ...

    @property
    def media(self) -> str | Path | None: ...

    @property
    def features(self) -> Mapping[str, str | Path]: ...

    @property
    def format(self) -> str | None: ...

    @property
    def sampling(self) -> str | None: ...

    @property
    def frame_rate(self) -> float | None: ...

    @property
    def roots(self) -> Mapping[str, str]: ...

    @property
    def missing_sets(self) -> str | None: ...


AnySource = TypeVar("AnySource", bound=DataSource)


@dataclass(frozen=True)
class DataSet:
    """One data set of a list.

    Args:
        place: where the list names it ("mix.yaml:12:5").
        name: its annotation file, as the list writes it.
        sampling: part of its samples that is used.
        settings: what a source of this set alone has in the place of the values of the list's source.
        missing: why it cannot be used; empty: it is there.
    """

    place: str
    name: str
    sampling: str
    settings: Mapping[str, Any]
    missing: str = ""


@runtime_checkable
class SetList(Protocol):
    """An annotation format whose file lists data sets."""

    def data_sets(self, path: Path, media: str | None, roots: Mapping[str, str]) -> list[DataSet]:
        """Returns all sets of a file, also those that are not there.

        Args:
            path: path of the file.
            media: media folder of the sets that name none.
            roots: start of an address or path in the file -> local folder.

        Raises:
            UserError: the file cannot be read, or has the wrong form; says where.
        """
        ...


def data_sets(source: DataSource) -> list[DataSet] | None:
    """Returns the data sets of a source whose annotations are a list of them; None for any other source.

    Raises:
        UserError: see `SetList.data_sets`; keys of the source that belong to a list, or do not go with one.
    """
    kind = ANNOTATIONS[source.format or DEFAULT_FORMAT]
    if not isinstance(kind, SetList):
        if source.roots or source.missing_sets:
            key = "roots" if source.roots else "missing_sets"
            raise UserError(f"{source.annotations}: {key} belongs to a list of data sets; write format: mixture, too")
        return None
    for key, value in (("sampling", source.sampling), ("frame_rate", source.frame_rate)):
        if value is not None:
            raise UserError(f"{source.annotations}: {key} belongs to the sets in this file; write it there")
    media = None if source.media is None else str(source.media)
    sets = kind.data_sets(Path(source.annotations), media, source.roots)
    if not sets:
        raise UserError(f"{source.annotations}: names no data set")
    return sets


def of_each_file(sources: Sequence[AnySource]) -> list[AnySource]:
    """Returns data sources of one annotation file each: a folder stands for its ``*.json`` files, sorted by name,
    without hidden ones, or, if it has none, for those of the next ending in `ENDINGS`; a list of data sets stands for
    those sets.

    Raises:
        UserError: a folder holds no such file; a list has the wrong form, or names sets that are not there and may not
            be left out.
    """
    found: list[AnySource] = []
    for source in sources:
        if (sets := data_sets(source)) is not None:
            found += [cast(Any, source).model_copy(update=one.settings) for one in _present(source, sets)]
            continue
        folder = Path(source.annotations)
        if not folder.is_dir():
            found.append(source)
            continue
        found_files = (sorted(path for path in folder.glob(f"[!.]*{end}") if path.is_file()) for end in ENDINGS)
        files = next(filter(None, found_files), [])
        if not files:
            raise UserError(f"{folder}: a folder of annotations needs files *.json, but there is none")
        found += [cast(Any, source).model_copy(update={"annotations": str(file)}) for file in files]
    return found


def left_out_sets(sources: Sequence[DataSource]) -> list[str]:
    """Returns a sentence for each list of data sets of which some are not there and are left out."""
    notes = []
    for source in sources:
        sets = data_sets(source) or []
        if missing := [one for one in sets if one.missing]:
            names = ", ".join(one.name for one in missing[:NAMED]) + (" ..." if len(missing) > NAMED else "")
            notes.append(
                f"{source.annotations} lacks {len(missing)} of its {len(sets)} data sets, left out here ({names}); "
                "vidtune data check lists them"
            )
    return notes


def _present(source: DataSource, sets: Sequence[DataSet]) -> list[DataSet]:
    """The sets that are there. Raises UserError if the others may not be left out, or there is none."""
    present = [one for one in sets if not one.missing]
    missing = [one for one in sets if one.missing]
    if missing and (source.missing_sets != LEAVE_OUT or not present):
        advice = "vidtune data check lists them; bring them here, or name their folders in roots"
        if present:
            advice += f", or train without them: missing_sets: {LEAVE_OUT}"
        raise UserError(
            f"{source.annotations}: lacks {len(missing)} of its {len(sets)} data sets; the first, {missing[0].place}: "
            f"{missing[0].missing}; {advice}"
        )
    return present
