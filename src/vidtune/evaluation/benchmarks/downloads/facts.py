"""Facts about a test set that a user needs before there is anything on disk."""

from collections.abc import Iterator
from dataclasses import dataclass

from vidtune.evaluation.benchmarks.base import Benchmark
from vidtune.evaluation.benchmarks.downloads.pictures import PICTURE_SETS
from vidtune.evaluation.benchmarks.downloads.records import Facts
from vidtune.evaluation.benchmarks.downloads.videos import VIDEO_SETS
from vidtune.evaluation.benchmarks.measured import MeasuredBenchmark


@dataclass(frozen=True)
class Listed:
    """One benchmark as it is listed.

    Args:
        facts: None for one of another package that tells none.
        same_as: name of the benchmark that it shares its test set with; "": its own.
    """

    name: str
    title: str
    source: str
    scored_by: str
    facts: Facts | None
    same_as: str

    def lines(self) -> Iterator[str]:
        """Yields where the questions come from, and what must be downloaded."""
        yield f"  source  {self.source}"
        if self.same_as:
            yield f"  get     the files of {self.same_as}"
            return
        for one in () if self.facts is None else self.facts.downloads:
            yield f"  {one}"


def facts_of(benchmark: Benchmark) -> Facts | None:
    """Returns what is known of a benchmark's test set; None: nothing."""
    known = {**VIDEO_SETS, **PICTURE_SETS}
    return benchmark.facts or known.get(benchmark.name) or known.get(benchmark.record_of)


def listed(benchmark: Benchmark) -> Listed:
    """Returns a benchmark as it is listed."""
    measured = isinstance(benchmark, MeasuredBenchmark)
    facts = facts_of(benchmark)
    by = "a server" if facts is not None and facts.answers_hidden else "metrics" if measured else "a judge"
    own = benchmark.facts is not None or benchmark.name in {**VIDEO_SETS, **PICTURE_SETS}
    return Listed(benchmark.name, benchmark.title, benchmark.source, by, facts, "" if own else benchmark.record_of)
