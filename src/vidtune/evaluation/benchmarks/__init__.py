"""The benchmarks, by name."""

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.base import Benchmark
from vidtune.evaluation.benchmarks.longvale import (
    LONGVALE,
    LONGVALE_CAPTIONING,
    LONGVALE_GROUNDING,
    LONGVALE_SEG_CAPTIONING,
)
from vidtune.evaluation.benchmarks.world import WORLD_EVENTS, WORLD_QA
from vidtune.evaluation.benchmarks.zero_shot_qa import ACTIVITYNET_QA, MSRVTT_QA, MSVD_QA, TGIF_QA
from vidtune.spelling import suggestion

_BENCHMARKS: tuple[Benchmark, ...] = (
    MSVD_QA,
    MSRVTT_QA,
    TGIF_QA,
    ACTIVITYNET_QA,
    LONGVALE,
    LONGVALE_CAPTIONING,
    LONGVALE_GROUNDING,
    LONGVALE_SEG_CAPTIONING,
    WORLD_QA,
    WORLD_EVENTS,
)


def list_benchmarks() -> tuple[Benchmark, ...]:
    """Every benchmark, in the order of the documentation."""
    return _BENCHMARKS


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of this name; raises UserError naming the nearest one."""
    known = {benchmark.name: benchmark for benchmark in _BENCHMARKS}
    if name in known:
        return known[name]
    raise UserError(f"unknown benchmark {name!r}; {suggestion(name.lower().replace('-', '_'), known)}")
