"""The benchmarks, by name."""

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.activitynet_qa import ACTIVITYNET_QA
from vidtune.evaluation.benchmarks.base import Benchmark
from vidtune.evaluation.benchmarks.longvale import (
    LONGVALE,
    LONGVALE_CAPTIONING,
    LONGVALE_GROUNDING,
    LONGVALE_SEG_CAPTIONING,
)
from vidtune.evaluation.benchmarks.msrvtt_qa import MSRVTT_QA
from vidtune.evaluation.benchmarks.msvd_qa import MSVD_QA
from vidtune.evaluation.benchmarks.tgif_qa import TGIF_QA
from vidtune.evaluation.benchmarks.world_events import WORLD_EVENTS
from vidtune.evaluation.benchmarks.world_qa import WORLD_QA
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
