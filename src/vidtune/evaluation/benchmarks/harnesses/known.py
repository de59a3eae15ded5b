"""The harnesses of this package, and what they make of a benchmark and of changes to its protocol."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vidtune.evaluation.benchmarks.harnesses.base import HARNESS, Harness, known_harness, without_harness
from vidtune.evaluation.benchmarks.harnesses.lmms_eval import LMMS_EVAL
from vidtune.evaluation.benchmarks.harnesses.vlmevalkit import VLMEVALKIT
from vidtune.evaluation.benchmarks.own.finding import benchmark_named
from vidtune.registry import BENCHMARKS

if TYPE_CHECKING:
    from vidtune.evaluation.benchmarks.base import Benchmark

HARNESSES: Mapping[str, Harness] = {one.name: one for one in (LMMS_EVAL, VLMEVALKIT)}


def asked_benchmark(name: str, overrides: Mapping[str, Any]) -> "Benchmark":
    """Returns the benchmark that is asked: the record of a harness, where the changes name one that has its own.

    Raises:
        UserError: no such benchmark or harness, or the harness does not ask it.
    """
    benchmark = benchmark_named(name)
    if HARNESS not in overrides:
        return benchmark
    record = known_harness(overrides[HARNESS], HARNESSES).task(benchmark).record
    return BENCHMARKS[record] if record else benchmark


def protocol_changes(
    benchmark: "Benchmark", kind: str | None, overrides: Mapping[str, Any] | None, framed: bool = False
) -> list[tuple[str, Mapping[str, Any]]]:
    """Returns (where they come from, changes to the protocol), the later ones laid over the earlier.

    A harness that the overrides name stands for its rules; what else they say is laid over these.

    Args:
        kind, framed: see `Harness.rules`.

    Raises:
        UserError: no such harness, or see `Harness.rules`.
    """
    named = without_harness(overrides or {})
    found: list[tuple[str, Mapping[str, Any]]] = [("protocol overrides", named)]
    if overrides and HARNESS in overrides:
        harness = known_harness(overrides[HARNESS], HARNESSES)
        found.insert(0, (f"harness {harness.name}", harness.rules(benchmark, kind, framed, named)))
    return found
