"""Published scores of systems, and what a run does differently from them.

The scores are data: `benchmarks/published/scores.yaml`. What a run differs in is what its protocol, its judge and its
questions say; that the weights are those of the publication, a run cannot know.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from vidtune.evaluation.benchmarks.base import Benchmark
from vidtune.evaluation.outcome import Metric
from vidtune.evaluation.protocol import Protocol, differences, flat_rules
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.scores.comparison import test_set_behind, test_set_of
from vidtune.evaluation.scores.score import Score
from vidtune.evaluation.scores.scoring import source_for
from vidtune.registry import BENCHMARKS, SYSTEMS

OF_CHECKPOINTS = ("preprocessing.", "companions.", "question_media.", "condensing.", "generation.stop", "prompt_format")
"""Rules that come from the checkpoint, unless a benchmark or a source says them."""
OF_RECORDS = ("benchmark", "version", "file_lookup.", "missing_videos", "postprocessing")
"""Rules that cannot change an answer."""


class PublishedScore(BaseModel):
    """A published score of one system on one benchmark.

    Args:
        system, benchmark: names in the registries.
        model: name of the published model.
        values: name of the number, or ``question type/name`` -> value; shares in percent.
        source: where it stands, in words.
        kind: "official" (of the authors' repository), "paper", "model card", or "quoted" (by others).
        judge: chat model that judged the answers; None: nobody did.
        rules: rules of the protocol that the source says, by names such as "preprocessing.num_frames".
        notes: what else differs from a run of today.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str
    model: str
    benchmark: str
    values: dict[str, float]
    source: str
    kind: str
    judge: str | None = None
    rules: dict[str, Any] = {}
    notes: tuple[str, ...] = ()

    def value(self, name: str, type: str | None = None) -> float | None:
        """The published value of a number of a score; None: it was not published."""
        return self.values.get(name if type is None else f"{type}/{name}")


@lru_cache(maxsize=1)
def published_scores() -> tuple[PublishedScore, ...]:
    """Returns all published scores that this package ships."""
    file = resources.files("vidtune.evaluation.benchmarks.published").joinpath("scores.yaml")
    stored = yaml.safe_load(file.read_text(encoding="utf-8"))
    return tuple(_read(entry, stored["sources"], stored["notes"]) for entry in stored["scores"])


def _read(entry: Mapping[str, Any], sources: Mapping[str, Any], notes: Mapping[str, str]) -> PublishedScore:
    source = sources[entry["source"]]
    said = tuple(notes.get(note, note) for note in entry.get("notes", ()))
    return PublishedScore(**{**entry, "source": source["where"], "kind": source["kind"], "notes": said})


def published_beside(run: RunFolder) -> list[PublishedScore]:
    """Returns the published scores on the test set of a run: those of its system first."""
    found = [one for one in published_scores() if test_set_behind(one.benchmark) == test_set_of(run)]
    return sorted(found, key=lambda one: one.system != run.info.system)


def differs_from(published: PublishedScore, run: RunFolder, score: Score) -> Iterator[str]:
    """Yields what a run does differently from a publication, one line each; what nobody knows is no line."""
    if run.info.system != published.system:
        yield f"system: {published.system} there, {run.info.system} here"
    yield from _rules(published, run.info.protocol)
    if published.judge is not None and not score.measured and score.judge != published.judge:
        yield f"judge: {published.judge} there, {score.judge} here"
    if run.info.part is not None:
        yield f"questions: {run.info.part}"
    counts = [sum(getattr(part, name) for part in _whole(score)) for name in ("missing", "errors", "unanswered")]
    for count, what in zip(counts, ("without file", "failed", "not asked yet"), strict=True):
        if count:
            yield f"questions: {count} {what} here"
    yield from (f"there: {note}" for note in published.notes)


def shares(metrics: Sequence[Metric]) -> frozenset[str]:
    """Names of the numbers that are shares of 1, which are published in percent."""
    return frozenset(metric.name for metric in metrics if metric.is_share)


def published_lines(run: RunFolder, score: Score) -> Iterator[str]:
    """Yield the published scores on the test set of a run beside its own, then what it does differently from each."""
    in_percent = shares(source_for(run, score.judge).metrics)
    names = [(group.type, value.name) for group in score.parts for value in group.values if value.official is not None]
    beside = [one for one in published_beside(run) if any(one.value(name, kind) is not None for kind, name in names)]
    if not beside:
        yield f"{run.path}: no published score of {run.info.benchmark} is known here"
        return
    yield f"published scores of {test_set_of(run)}, beside {run.path}"
    for kind, name in names:
        official = score.value(name, kind).official
        there = [(one, value) for one in beside if (value := one.value(name, kind)) is not None]
        if official is None or not there:
            continue
        here = official.value * (100 if name in in_percent else 1)
        what = " ".join([*([kind] if kind is not None else []), name.replace("_", " ")])
        yield f"  {what}: {here:.2f} here; " + ", ".join(f"{value:g} {one.model}" for one, value in there)
    for one in beside:
        yield f"  {one.model} ({one.kind}): {one.source}"
        yield from (f"    {line}" for line in differs_from(one, run, score))


def _whole(score: Score) -> tuple[Any, ...]:
    return score.groups if score.overall is None else (score.overall,)


def _rules(published: PublishedScore, protocol: Protocol) -> Iterator[str]:
    """The rules that differ from those of the benchmark's record for the system, and from what a source says."""
    if published.benchmark not in BENCHMARKS or published.system not in SYSTEMS:
        return
    benchmark, said = BENCHMARKS[published.benchmark], flat_rules(published.rules)
    there = flat_rules(_record_of(benchmark, published.system).model_dump(mode="json")) | said
    own = flat_rules(benchmark.system_rules.get(published.system, {})) | said
    for name, (theirs, ours) in differences(there, flat_rules(protocol.model_dump(mode="json"))).items():
        by_checkpoint = name.startswith(OF_CHECKPOINTS) or (name == "question_template" and name not in own)
        if not name.startswith(OF_RECORDS) and (name in own or not by_checkpoint):
            yield f"{name}: {_text(theirs)} there, {_text(ours)} here"


def _record_of(benchmark: Benchmark, system: str) -> Protocol:
    protocol = benchmark.protocol(prompt_format=SYSTEMS[system].dialect.answering_prompt)
    return protocol.with_overrides(benchmark.system_rules.get(system, {}), f"system {system}")


def _text(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
