"""Caption metrics that need more than this package: METEOR and SPICE by Java programs, BERTScore by an encoder.

Each is left out where it cannot be computed, with the reason; the other metrics are computed all the same.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar

from vidtune.errors import UserError
from vidtune.evaluation.metrics.base import CaptionMetric, MetricValues
from vidtune.evaluation.metrics.programs.bert_score import BertScore, bert_score_identity, bert_score_problem
from vidtune.evaluation.metrics.programs.meteor import Meteor, meteor_problem
from vidtune.evaluation.metrics.programs.spice import spice, spice_problem

METEOR, SPICE, BERT_SCORE = "METEOR", "SPICE", "BERTScore"
_PROBLEMS = {METEOR: meteor_problem, SPICE: spice_problem, BERT_SCORE: bert_score_problem}
_Result = TypeVar("_Result")


class CaptionPrograms:
    """The metrics that can be computed here; use it in a ``with`` statement.

    Attributes:
        of_tokens: name -> metric of tokenised captions.
        of_texts: name -> metric of captions as they are written.
        left_out: name -> why it cannot be computed.
    """

    def __init__(self) -> None:
        self.left_out = {name: reason for name, problem in _PROBLEMS.items() if (reason := problem()) is not None}
        self.of_tokens: dict[str, CaptionMetric] = {}
        self.of_texts: dict[str, CaptionMetric] = {}
        self._open = ExitStack()

    def __enter__(self) -> "CaptionPrograms":
        self._add(METEOR, self.of_tokens, lambda: self._open.enter_context(Meteor()).scores)
        self._add(SPICE, self.of_tokens, lambda: _item_by_item(spice))
        self._add(BERT_SCORE, self.of_texts, lambda: _item_by_item(BertScore().scores))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def computed(self, compute: Callable[[], _Result]) -> _Result:
        """Returns what a function computes with these metrics; it is called again without one that fails.

        Raises:
            UserError: something else failed.
        """
        while True:
            known = len(self.left_out)
            try:
                return compute()
            except UserError:
                if len(self.left_out) == known:
                    raise

    def _add(self, name: str, metrics: dict[str, CaptionMetric], build: Callable[[], CaptionMetric]) -> None:
        if name in self.left_out:
            return
        try:
            metric = build()
        except UserError as error:
            self.left_out[name] = str(error)
            return

        def guarded(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> MetricValues:
            try:
                return metric(references, predictions)
            except UserError as error:
                self.left_out[name] = str(error)
                del metrics[name]
                raise

        metrics[name] = guarded


def programs_identity() -> dict[str, Any]:
    """Which of these metrics can be computed here and how, as JSON values."""
    return {
        "meteor": None if meteor_problem() else "1.5",
        "spice": None if spice_problem() else "1.0",
        "bertscore": bert_score_identity(),
    }


def _item_by_item(metric: CaptionMetric) -> CaptionMetric:
    """A metric whose items do not depend on each other and whose value is their mean; no pair is computed twice."""
    known: dict[tuple[tuple[str, ...], str], float] = {}

    def scores(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> MetricValues:
        pairs = [(tuple(texts), text) for texts, text in zip(references, predictions, strict=True)]
        asked = [pair for pair in dict.fromkeys(pairs) if pair not in known]
        found = metric([texts for texts, _ in asked], [text for _, text in asked])
        known.update(zip(asked, found.per_item.tolist(), strict=True))
        return MetricValues.mean([known[pair] for pair in pairs])

    return scores
