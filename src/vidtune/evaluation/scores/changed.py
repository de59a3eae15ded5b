"""Questions to which two runs give different answers, or answers with different verdicts."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from vidtune.evaluation.outcome import Metric, Outcome
from vidtune.evaluation.question import Prediction


class Change(StrEnum):
    """What changed from the first to the second run."""

    LOST = "right, then wrong"
    GAINED = "wrong, then right"
    SCORED = "another verdict or value"
    WORDS = "other words, same verdict"


class Said(BaseModel):
    """What one run says to a question.

    Args:
        pred: the answer; empty where there is none.
        verdict: "right", "wrong", a value such as "IoU 41.0" or "3 points", or why there is none, such as "failed".
        fragile: whether rounding alone can change the answer; None: not known.
    """

    model_config = ConfigDict(frozen=True)

    pred: str
    verdict: str
    fragile: bool | None = None


class ChangedQuestion(BaseModel):
    """A question with what both runs say to it."""

    model_config = ConfigDict(frozen=True)

    index: int
    id: str
    video: str
    type: str | None
    question: str
    answer: str
    change: Change
    first: Said
    second: Said

    @property
    def fragile(self) -> bool:
        """Whether rounding alone can change one of the two answers."""
        return bool(self.first.fragile or self.second.fragile)


def changed_questions(
    metrics: Sequence[Metric],
    pairs: Sequence[tuple[Outcome, Outcome]],
    first: Mapping[int, Prediction],
    second: Mapping[int, Prediction],
) -> tuple[ChangedQuestion, ...]:
    """The questions that changed: verdicts first, each kind in the order of the test set.

    Args:
        pairs: outcomes of the questions that both runs hold.
        first, second: predictions by question index.
    """
    found = []
    for one, other in pairs:
        asked = first.get(one.index) or second.get(one.index)
        if asked is None:
            continue
        said = (_said(metrics, one, first.get(one.index)), _said(metrics, other, second.get(one.index)))
        if (change := _change(*said)) is not None:
            found.append(
                ChangedQuestion(
                    index=one.index,
                    id=one.entry.id,
                    video=one.video,
                    type=one.type,
                    question=asked.question,
                    answer=str(asked.answer),
                    change=change,
                    first=said[0],
                    second=said[1],
                )
            )
    return tuple(sorted(found, key=lambda one: list(Change).index(one.change)))


def _change(one: Said, other: Said) -> Change | None:
    if one.verdict == other.verdict:
        return None if one.pred == other.pred else Change.WORDS
    return {("right", "wrong"): Change.LOST, ("wrong", "right"): Change.GAINED}.get(
        (one.verdict, other.verdict), Change.SCORED
    )


def _said(metrics: Sequence[Metric], outcome: Outcome, prediction: Prediction | None) -> Said:
    return Said(
        pred="" if prediction is None or prediction.error is not None else prediction.pred,
        verdict=verdict_text(metrics, outcome),
        fragile=outcome.entry.fragile,
    )


def verdict_text(metrics: Sequence[Metric], outcome: Outcome) -> str:
    """What a judge or metrics say of one answer, in a few words."""
    if not outcome.entry.counted:
        return str(outcome.entry.state)
    metric = next((one for one in metrics if one.right_or_wrong and one.name in outcome.official), None)
    if metric is not None:
        top, bottom = outcome.official[metric.name]
        if bottom:
            return "right" if top > 0 else "wrong"
    if outcome.values:
        return ", ".join(f"{name} {value:.1f}" for name, value in outcome.values.items())
    if outcome.points is not None:
        return f"{outcome.points:g} points"
    return outcome.verdict or str(outcome.entry.state)
