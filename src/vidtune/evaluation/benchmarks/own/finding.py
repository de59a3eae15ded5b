"""Which benchmark a name means: a registered one, or a test set of one's own by the path of its file."""

from pathlib import Path

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.base import Benchmark
from vidtune.evaluation.benchmarks.own.lines import read_own_file
from vidtune.evaluation.benchmarks.own.retrieval import RetrievalTestSet
from vidtune.evaluation.benchmarks.own.test_set import SUFFIX, OwnTestSet
from vidtune.evaluation.protocol import Protocol
from vidtune.registry import BENCHMARKS


def benchmark_named(name: str) -> Benchmark:
    """Returns the registered benchmark of this name, or the test set in a file of JSON lines.

    Raises:
        UserError: no benchmark has the name; or the file cannot be read or holds wrong lines, all of which are named.
    """
    if name.endswith(SUFFIX):
        own = read_own_file(Path(name))
        return RetrievalTestSet.of(own) if own.captions else OwnTestSet.of(own)
    if name not in BENCHMARKS and Path(name).is_file():
        raise UserError(f"{name}: a test set of one's own is a file of JSON lines, with a name that ends in {SUFFIX}")
    return BENCHMARKS[name]


def stored_benchmark(protocol: Protocol, file: str | None = None) -> Benchmark:
    """Returns the benchmark that a run was asked.

    Args:
        protocol: of the run.
        file: where its test set of one's own was.

    Raises:
        UserError: nothing registered has the name.
    """
    if not protocol.test_file:
        return BENCHMARKS[protocol.benchmark]
    return (RetrievalTestSet if protocol.retrieval else OwnTestSet).stored(protocol, file)


def is_known(protocol: Protocol) -> bool:
    """Whether `stored_benchmark` finds the benchmark of a run."""
    return bool(protocol.test_file) or protocol.benchmark in BENCHMARKS


def medium_of_run(protocol: Protocol) -> str:
    """What the questions of a run are about: "picture" or "video"; "video" where nobody knows its benchmark."""
    return stored_benchmark(protocol).medium if is_known(protocol) else "video"
