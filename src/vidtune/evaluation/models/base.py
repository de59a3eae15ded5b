"""Interface of what answers a benchmark, whoever wrote the model."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from typing import Protocol as Interface

from vidtune.evaluation.protocol import Protocol
from vidtune.evaluation.runs.checkpoint_identity import CheckpointIdentity
from vidtune.evaluation.runs.run_info import Arithmetic
from vidtune.generation.settings import Answer, Request

if TYPE_CHECKING:
    from vidtune.evaluation.benchmarks.base import Benchmark
    from vidtune.evaluation.checkpoint import AnsweringOptions


class Engine(Interface):
    """Interface of what answers questions; `generation.engine` implements it."""

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Yields one answer per request, in any order; a request that fails gives an answer with ``error`` set."""


class EvaluatedModel(ABC):
    """A model that can be asked the questions of several benchmarks.

    Args:
        identity: which weights these are; stored with every run.
        system: name of the system, or of the kind of model; None: not known.
        recipe: text of the recipe that trained it; None: there is none.
        warnings: what a user of this model has to know, one line each.
    """

    identity: CheckpointIdentity
    system: str | None = None
    recipe: str | None = None
    warnings: Sequence[str] = ()

    @property
    def arithmetic(self) -> Arithmetic | None:
        """Device and dtype that answers are computed with; None: not known, as of a model behind an endpoint."""
        return None

    @abstractmethod
    def protocol(
        self,
        benchmark: "Benchmark",
        *,
        blind: bool = False,
        without: Sequence[str] = (),
        features: Sequence[str] = (),
        overrides: Mapping[str, Any] | None = None,
    ) -> Protocol:
        """Returns the protocol of a benchmark for this model; arguments as those of `protocol_for`.

        Raises:
            UserError: a rule that this model cannot follow.
        """

    @abstractmethod
    def engine(self, protocol: Protocol, options: "AnsweringOptions") -> AbstractContextManager[Engine]:
        """Returns the engine that answers by a protocol of this model."""
