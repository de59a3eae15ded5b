"""What training data hold, stage by stage: lengths, seconds, sizes, what is there twice, what a test set has too.

Files are compared by content: by their size and pieces of them, and where these are equal by every byte (of a folder of
frames by pieces of some of its files). A file that was encoded anew is another one.

Legend: S usable samples, F different files.
"""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Sample
from vidtune.data.tables import AnnotationTable
from vidtune.foreign.files import open_foreign
from vidtune.machine.cores import media_workers
from vidtune.machine.progress import ProgressCallback, no_progress
from vidtune.media.kept.identity import content_hash
from vidtune.media.pool import LoadJob, MediaPool
from vidtune.media.probe import ProbeCache
from vidtune.planning.lengths import ExampleMaker
from vidtune.recipe.types import Recipe, Stage
from vidtune.spelling import counted
from vidtune.training.inspection.data_check import processor_of_each_stage
from vidtune.training.setup.checks import check_stages, chosen_stages
from vidtune.training.setup.examples import check_features, example_maker, for_stage
from vidtune.training.setup.run_folder import MEDIA_FACTS, TABLES

NAMED, MOST_SIZES = 5, 8
"""Most groups, and most sizes of frames, that the printed form names."""
REPORT_EVERY = 256


@dataclass
class StageStats:
    """What the data of a stage hold.

    Args:
        samples: number of samples, with those that cannot be used.
        unusable: reason -> number of samples.
        first: reason -> the first of these samples, with what is wrong with it.
        tokens, media_tokens, supervised: (S,) int, of each usable sample.
        kinds: kind of file ("video", "image", ...) -> number of files.
        seconds: (F,) float, of files that have a duration.
        sizes: width and height of frames -> number of files.
        size_bytes: of all files that are no folders.
        unreadable: path of a file -> why it cannot be read.
        same_files: groups of paths whose content is the same.
        same_conversations: groups of ids of samples of the same words about the same media.
        shared: test set -> name of its medium -> path here of the same content.
        tested: test set -> number of its media that were looked for.
    """

    stage: str
    samples: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    tokens: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    media_tokens: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    supervised: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    kinds: Counter[str] = field(default_factory=Counter)
    seconds: np.ndarray = field(default_factory=lambda: np.empty(0))
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    size_bytes: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    same_files: list[list[str]] = field(default_factory=list)
    same_conversations: list[list[str]] = field(default_factory=list)
    shared: dict[str, dict[str, str]] = field(default_factory=dict)
    tested: dict[str, int] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Returns everything as JSON values."""
        return {
            "stage": self.stage,
            "samples": self.samples,
            "unusable": dict(self.unusable),
            "first": self.first,
            "tokens": _spread(self.tokens),
            "media_tokens": _spread(self.media_tokens),
            "supervised": _spread(self.supervised),
            "files": dict(self.kinds),
            "bytes": self.size_bytes,
            "seconds": _spread(self.seconds),
            "sizes": {f"{width}x{height}": number for (width, height), number in self.sizes.most_common()},
            "unreadable": self.unreadable,
            "same_files": self.same_files,
            "same_conversations": self.same_conversations,
            "shared": self.shared,
        }

    def lines(self) -> Iterator[str]:
        """Yield the numbers as text, with a few examples of each kind."""
        yield f"{self.stage}: {counted(self.samples, 'sample')}, {sum(self.unusable.values())} unusable"
        for reason, number in self.unusable.most_common():
            yield f"  {number:>7} unusable: {reason}"
            yield f"          {self.first[reason]}"
        if len(self.tokens):
            whole = max(int(self.tokens.sum()), 1)
            shares = f"media {self.media_tokens.sum() / whole:.1%}, supervised {self.supervised.sum() / whole:.1%}"
            yield f"  tokens      {_words(self.tokens, '{:,.0f}')}; {whole:,} in all: {shares}"
        kinds = ", ".join(f"{number} {kind}" for kind, number in self.kinds.most_common())
        size = f"{self.size_bytes / 1e6:,.3g} MB"
        yield f"  files       {sum(self.kinds.values())}{f': {kinds}' if kinds else ''}; {size}"
        if len(self.seconds):
            yield f"  seconds     {_words(self.seconds, '{:,.2f}')}; {self.seconds.sum() / 3600:,.3g} hours in all"
        if self.sizes:
            sizes = [f"{width}x{height} ({number})" for (width, height), number in self.sizes.most_common(MOST_SIZES)]
            more = f" and {len(self.sizes) - MOST_SIZES} more" if len(self.sizes) > MOST_SIZES else ""
            yield f"  frame sizes {', '.join(sizes)}{more}"
        yield from _listed("unreadable files", [f"{path}: {why}" for path, why in self.unreadable.items()])
        yield from _listed("files that are there twice", [" = ".join(group) for group in self.same_files])
        yield from _listed("conversations that are there twice", [" = ".join(one) for one in self.same_conversations])
        for name, found in self.shared.items():
            pairs = [f"{video} is {path}" for video, path in found.items()]
            yield from _listed(f"of {self.tested[name]} media of {name} in these data", pairs, nothing=True)


def recipe_stats(
    recipe: Recipe,
    tests: Mapping[str, Mapping[str, str]] | None = None,
    *,
    only: str | None = None,
    progress: ProgressCallback = no_progress,
) -> Iterator[StageStats]:
    """Count the data of every stage, and yield what they hold.

    Args:
        tests: test set -> name of a medium -> path of its file; these are looked for among the training data.
        only: name of one stage; None: all of them.
        progress: called while samples and files are read.

    Raises:
        UserError: no such stage; annotations that are missing or broken.
    """
    check_stages(recipe)
    stages = chosen_stages(recipe, only)
    processors = processor_of_each_stage(recipe)
    for stage in stages:
        check_features(stage, processors[stage.name])
    contents = _Contents()
    with tempfile.TemporaryDirectory(prefix="vidtune-") as folder:
        media_info = ProbeCache(Path(folder) / TABLES / MEDIA_FACTS).get
        for stage in stages:
            processor = for_stage(processors[stage.name], stage)
            processor.media_info = media_info
            table = AnnotationTable.open(stage.data, Path(folder) / TABLES)
            yield _stats(stage, table, example_maker(recipe, stage, processor), tests or {}, contents, progress)


def _stats(
    stage: Stage,
    table: AnnotationTable,
    make: ExampleMaker,
    tests: Mapping[str, Mapping[str, str]],
    contents: "_Contents",
    progress: ProgressCallback,
) -> StageStats:
    found = StageStats(stage.name, len(table))
    paths: dict[str, int] = {}
    conversations: list[tuple[str, bytes, tuple[int, ...]]] = []
    counts: list[tuple[int, int, int]] = []
    for index in range(len(table)):
        if index % REPORT_EVERY == 0:
            progress("samples", index, len(table))
        try:
            sample = table[index]
            example = make(sample)
        except SampleProblem as problem:
            found.unusable[problem.reason] += 1
            found.first.setdefault(problem.reason, str(problem))
            continue
        media = sum(slot.num_tokens for slot in example.media)
        counts.append((len(example), media, example.num_supervised))
        places = tuple(paths.setdefault(ref.path, len(paths)) for ref in sample.media if ref.path)
        conversations.append((sample.id, _words_of(sample), places))
    table_of_counts = np.array(counts, int).reshape(-1, 3)
    found.tokens, found.media_tokens, found.supervised = table_of_counts.T
    _read_files(found, list(paths), stage, progress)
    names = [contents.of(path) or path for path in paths]
    found.same_files = contents.same(paths)
    found.same_conversations = _groups((id, (words, *(names[one] for one in at))) for id, words, at in conversations)
    for name, media_of_test in tests.items():
        found.shared[name] = contents.shared(paths, media_of_test)
        found.tested[name] = len(media_of_test)
    return found


def _read_files(found: StageStats, paths: Sequence[str], stage: Stage, progress: ProgressCallback) -> None:
    """Read the headers of files."""
    seconds: list[float] = []
    with MediaPool(max(1, media_workers(stage.workers)), stage.media_timeout) as pool:
        results = pool.load(LoadJob(path, None) for path in paths)
        for done, (path, result) in enumerate(zip(paths, results, strict=True), 1):
            progress("files", done, len(paths))
            if result.info is None:
                found.unreadable[path] = result.error.reason if result.error is not None else "has no metadata"
                continue
            info = result.info
            found.kinds[info.kind] += 1
            found.size_bytes += Path(path).stat().st_size if Path(path).is_file() else 0
            if length := info.duration or info.audio_seconds:
                seconds.append(length)
            if info.width:
                found.sizes[info.width, info.height] += 1
    found.seconds = np.array(seconds)


class _Contents:
    """Contents of files, each of which is read once."""

    def __init__(self) -> None:
        self._pieces: dict[str, str | None] = {}
        self._whole: dict[str, str] = {}

    def of(self, path: str) -> str | None:
        """Hash of size and pieces of a file; None: it cannot be read."""
        if path not in self._pieces:
            self._pieces[path] = content_hash(path)
        return self._pieces[path]

    def same(self, paths: Iterable[str]) -> list[list[str]]:
        """Groups of different paths whose files are the same in every byte."""
        alike = _groups((path, name) for path in paths if (name := self.of(path)) is not None)
        return [group for near in alike for group in _groups((path, self._of_all(path)) for path in near)]

    def shared(self, paths: Iterable[str], media: Mapping[str, str]) -> dict[str, str]:
        """Name of a medium -> path of the same content, for the media that have one."""
        here: dict[str, list[str]] = {}
        for path in paths:
            if (name := self.of(path)) is not None:
                here.setdefault(name, []).append(path)
        found = {}
        for medium, file in media.items():
            near = here.get(self.of(file) or "", [])
            own = next((path for path in near if self._of_all(path) == self._of_all(file)), None)
            if own is not None:
                found[medium] = own
        return found

    def _of_all(self, path: str) -> str:
        """Hash of every byte of a file; of a folder what `of` gives."""
        if path not in self._whole:
            if Path(path).is_file():
                with open_foreign(path) as file:
                    self._whole[path] = hashlib.file_digest(file, "sha256").hexdigest()
            else:
                self._whole[path] = self.of(path) or path
        return self._whole[path]


def _words_of(sample: Sample) -> bytes:
    """What a sample says, and which part of each medium it is about."""
    turns = [(turn.role, " ".join(turn.text.split())) for turn in sample.turns]
    media = [(ref.stream, ref.start, ref.end, ref.fps, ref.extras, ref.frames, bool(ref.path)) for ref in sample.media]
    stored = [ref.features for ref in sample.media if not ref.path]
    return hashlib.sha256(repr((turns, media, stored)).encode(errors="surrogatepass")).digest()


def _groups(named: Iterable[tuple[str, Any]]) -> list[list[str]]:
    """Names that have the same value, where it is that of two or more."""
    by_value: dict[Any, list[str]] = {}
    for name, value in named:
        by_value.setdefault(value, []).append(name)
    return [names for names in by_value.values() if len(names) > 1]


def _spread(values: np.ndarray) -> dict[str, float]:
    """Least, median, 95th percentile, largest and sum; empty without values."""
    if not len(values):
        return {}
    median, high = np.percentile(values, (50, 95), method="higher")
    found = {"min": values.min(), "median": median, "p95": high, "max": values.max(), "sum": values.sum()}
    return {name: round(float(value), 3) for name, value in found.items()}


def _words(values: np.ndarray, form: str) -> str:
    spread = _spread(values)
    names = {"min": "least", "median": "median", "p95": "95 %", "max": "largest"}
    return ", ".join(f"{word} {form.format(spread[name])}" for name, word in names.items())


def _listed(what: str, entries: Sequence[str], nothing: bool = False) -> Iterator[str]:
    """A count with the first entries. Args: nothing: say also that there is none."""
    if entries or nothing:
        yield f"  {len(entries):>7} {what}"
        yield from (f"          {one}" for one in entries[:NAMED])
        if len(entries) > NAMED:
            yield f"          and {len(entries) - NAMED} more"
