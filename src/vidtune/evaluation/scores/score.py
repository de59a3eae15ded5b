"""The score of a run: named values with intervals, over all questions and per question type.

========  ==================================================================================================
official  as the published scripts compute it: only the questions that were answered (and judged)
strict    all planned questions: whatever is missing, failed, not asked or unjudged counts as wrong, or as an empty
          answer
========  ==================================================================================================

Judged and measured benchmarks have the same kind of score: `scores.scoring` computes it, `scores.score_file`
stores it.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

from pydantic import BaseModel, ConfigDict

from vidtune.evaluation.runs.checkpoint_identity import CheckpointIdentity
from vidtune.evaluation.scores.score_lines import score_lines
from vidtune.evaluation.statistics import LEVEL, METHOD, Estimate
from vidtune.spelling import one_line

METRICS = "metrics"
"""Stands for the judge's name where metrics score the answers: in score files and reports."""


class NamedValue(BaseModel):
    """One number of a score with its interval.

    Args:
        name: such as "accuracy" or "mIoU".
        official, strict: see the top of this file; None when it cannot be computed.
        published: what the published script prints instead of the official value, because it also adds up scores
            outside the scale and counts verdicts without a score as 0; None: there are no such verdicts.
        reason: why there is no official value.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    official: Estimate | None
    strict: Estimate | None
    published: float | None = None
    reason: str | None = None


class ScoreGroup(BaseModel):
    """The values of a set of questions, and the counts behind them.

    Args:
        type: question type; None: all questions.
        questions: number of planned questions; all are in the strict values.
        scored: number of them that are answered, and judged where a judge scores them.
        yes, no: number of judgements that say yes, or no, in the official value.
        unjudged: answers without a verdict that counts: the sum of ``out_of_range``, ``unreadable``, ``judge_failed``,
            ``not_judged`` and ``excluded``, which `evaluation.ledger.Judging` explains.
        missing: questions whose video does not exist.
        errors: questions that could not be asked.
        unanswered: questions that were not asked yet.
        empty: answers without any text; they are scored like others.
        unread: answers in which nothing of the requested form could be read; they count as wrong.
        unclear: judged answers of which the judge said neither yes nor no.
        repeated: answers with a verdict that counts that are in no official value all the same, because their id is
            answered again later. Each question that is in no official value is in one of these numbers.
        similar: answers about files of similar names, which the published scripts count as missing.
        lenient: verdicts that count whose reply only a lenient judge understands.
        with_margin: greedy answers of which it is known how near the second token was, at each token.
        fragile: of them those that rounding alone can change, see `question.Prediction`.
        videos: number of videos of these questions.
    """

    model_config = ConfigDict(frozen=True)

    type: str | None = None
    questions: int
    scored: int
    yes: int = 0
    no: int = 0
    unjudged: int = 0
    missing: int = 0
    errors: int = 0
    unanswered: int = 0
    empty: int = 0
    unread: int = 0
    unclear: int = 0
    out_of_range: int = 0
    unreadable: int = 0
    judge_failed: int = 0
    not_judged: int = 0
    repeated: int = 0
    excluded: int = 0
    similar: int = 0
    lenient: int = 0
    with_margin: int = 0
    fragile: int = 0
    videos: int
    values: tuple[NamedValue, ...]

    def value(self, name: str) -> NamedValue:
        """The value of this name.

        Raises:
            KeyError: there is no such value; the message lists the names.
        """
        return _named(self.values, name, "value")

    @property
    def reason(self) -> str | None:
        """Why one of the official values is missing."""
        return next((value.reason for value in self.values if value.reason), None)


class Score(BaseModel):
    """The score of one run, by one judge or by metrics.

    Args:
        judge: name of the judge, or "metrics".
        identity: everything that can change a value: the judge, or the programs that measure.
        intervals: how the 95 % intervals were computed.
        unanswered: number of questions of the run that were not asked yet.
        duplicates: number of answers that are in no official value because their id is answered again later: published
            scripts judge an id once. In the strict values every question counts.
        reasons: why questions do not count, one line per state and reason, with examples; before them a line if a
            limit leaves out a part of the test set, one if several versions of the software answered, and those on
            answers that count and are unusual, see `ledger.reason_lines`.
        fragile_examples: ids of the first fragile answers.
        answers: digest of the answers and verdicts that it was computed from; None: a score of an earlier version.
        left_out: metric -> reason why it could not be computed; scoring again where it can be computed adds it.
        overall: over all questions; None when each question type has metrics of its own.
        groups: one per question type.
    """

    model_config = ConfigDict(frozen=True)

    benchmark: str
    blind: bool
    without: tuple[str, ...] = ()
    protocol_hash: str
    checkpoint: CheckpointIdentity
    system: str | None
    judge: str
    identity: dict[str, Any]
    intervals: str = f"{LEVEL:.0%}, {METHOD}"
    unanswered: int = 0
    duplicates: int = 0
    reasons: tuple[str, ...] = ()
    fragile_examples: str = ""
    answers: str | None = None
    left_out: dict[str, str] = {}
    overall: ScoreGroup | None
    groups: tuple[ScoreGroup, ...]

    @property
    def measured(self) -> bool:
        """Whether metrics computed the values; otherwise a judge gave verdicts."""
        return self.judge == METRICS

    @property
    def parts(self) -> tuple[ScoreGroup, ...]:
        """All questions, where they have values together, then the question types."""
        return (*((self.overall,) if self.overall is not None else ()), *self.groups)

    @property
    def coverage(self) -> float:
        """Share of the run's questions that are in the official values, 0 to 1."""
        scored, questions = self._count("scored"), self._count("questions")
        return scored / questions if questions else 0.0

    @property
    def with_margin(self) -> int:
        """Number of greedy answers of which it is known how near the second token was."""
        return self._count("with_margin")

    @property
    def fragile(self) -> int:
        """Number of greedy answers that rounding alone can change, as on another machine."""
        return self._count("fragile")

    def _count(self, name: str) -> int:
        """A count over all questions."""
        parts = self.groups if self.overall is None else (self.overall,)
        return sum(getattr(part, name) for part in parts)

    def group(self, type: str | None = None) -> ScoreGroup:
        """The group of a question type; None: that of all questions.

        Raises:
            KeyError: there is no such group; the message lists the types.
        """
        if type is None and self.overall is not None:
            return self.overall
        found = next((group for group in self.groups if group.type == type), None)
        if found is None:
            raise KeyError(f"no values for {type!r}; there are {', '.join(str(group.type) for group in self.groups)}")
        return found

    def value(self, name: str, type: str | None = None) -> NamedValue:
        """The value of this name, over all questions or of one question type.

        Raises:
            KeyError: there is no such value or type; the message lists what there is.
        """
        return self.group(type).value(name)

    @property
    def accuracy(self) -> float | None:
        """Official accuracy over all questions, 0 to 1; None when it cannot be computed, or there is none."""
        found = self._accuracy
        return None if found is None else found.value

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of `accuracy`; None when there is none (one or two videos, or no accuracy)."""
        found = self._accuracy
        return None if found is None or found.low is None or found.high is None else (found.low, found.high)

    @property
    def _accuracy(self) -> Estimate | None:
        values = () if self.overall is None else self.overall.values
        found = next((value.official for value in values if value.name == "accuracy"), None)
        return found.scaled(0.01) if found is not None and self.measured else found

    def __str__(self) -> str:
        """The score as the commands print it."""
        return "\n".join(map(one_line, score_lines(self)))

    def _repr_html_(self) -> str:
        """The score as a table, for notebooks."""
        rows = [
            _html_row("all" if group.type is None else group.type, group, value)
            for group in self.parts
            for value in group.values
        ]
        without = "".join(f", without {name}" for name in self.without)
        title = f"{self.benchmark}{', blind' if self.blind else ''}{without}"
        by = "metrics, in percent" if self.measured else f"judge {self.judge}"
        head = "".join(
            f"<th>{name}</th>" for name in ("questions", "value", "official", "interval", "strict", "scored")
        )
        return (
            f"<table><caption>{escape(title)}: {escape(by)}, protocol {escape(self.protocol_hash)}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
            + "".join(f"<p>{escape(line)}</p>" for line in self.reasons)
        )


def _html_row(name: str, group: ScoreGroup, value: NamedValue) -> str:
    official, strict = value.official, value.strict
    has_interval = official is not None and official.low is not None
    cells = [
        name,
        value.name,
        "none" if official is None else f"{official.value:.3f}",
        f"[{official.low:.3f}, {official.high:.3f}]" if official is not None and has_interval else "",
        "none" if strict is None else f"{strict.value:.3f}",
        f"{group.scored} of {group.questions}",
    ]
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _named(values: Sequence[NamedValue], name: str, what: str) -> NamedValue:
    found = next((value for value in values if value.name == name), None)
    if found is None:
        raise KeyError(f"no {what} {name!r}; there are {', '.join(value.name for value in values)}")
    return found
