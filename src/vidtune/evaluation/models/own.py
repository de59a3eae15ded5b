"""Checkpoints of the systems of this package as models that answer benchmarks."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from vidtune.evaluation.checkpoint import AnsweringOptions, LoadedCheckpoint, engine_for
from vidtune.evaluation.models.base import Engine, EvaluatedModel
from vidtune.evaluation.protocol import Protocol
from vidtune.evaluation.protocol_of_checkpoint import protocol_for
from vidtune.evaluation.runs.run_info import Arithmetic, arithmetic_of

if TYPE_CHECKING:
    from vidtune.evaluation.benchmarks.base import Benchmark


class OwnModel(EvaluatedModel):
    """A checkpoint of one of our systems in memory."""

    def __init__(self, loaded: LoadedCheckpoint) -> None:
        self.loaded = loaded
        self.identity, self.recipe, self.system = loaded.identity, loaded.recipe, loaded.system.name
        report = getattr(loaded.checkpoint, "report", None)
        self.warnings = () if report is None else tuple(report.warnings)

    @property
    def arithmetic(self) -> Arithmetic | None:
        return arithmetic_of(self.loaded.checkpoint.model)

    def protocol(
        self,
        benchmark: "Benchmark",
        *,
        blind: bool = False,
        without: Sequence[str] = (),
        features: Sequence[str] = (),
        overrides: Mapping[str, Any] | None = None,
    ) -> Protocol:
        return protocol_for(
            self.loaded, benchmark, blind=blind, without=without, features=features, overrides=overrides
        )

    def engine(self, protocol: Protocol, options: AnsweringOptions) -> AbstractContextManager[Engine]:
        if protocol.retrieval:
            from vidtune.evaluation.models.vectors import vector_engine  # weight: torch

            return vector_engine(self.loaded, protocol, options)
        return engine_for(self.loaded, protocol, options)
