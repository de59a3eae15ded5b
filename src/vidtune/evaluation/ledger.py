"""The ledger of a run: every planned question has exactly one state of asking, and every answer one of judging.

Counts, reasons and examples in the console, on the page and in score files all come from here.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

EXAMPLES = 3
REASONS = 5


class Asking(StrEnum):
    """State of asking a question; `EMPTY` is an answer without any text. One whose video could not be read then, for a
    reason of the machine, is not asked yet."""

    ANSWERED = "answered"
    EMPTY = "empty answer"
    NO_FILE = "without file"
    FAILED = "failed"
    NOT_ASKED = "not asked yet"


class Judging(StrEnum):
    """State of judging an answer.

    ============  ==============================================================================================
    JUDGED        it has a verdict, or metrics have measured it
    NO_VERDICT    the judge gave a score but said neither yes nor no
    UNREAD        metrics found nothing of the requested form in the answer; it counts as wrong
    EXCLUDED      the published scorer leaves the answer out, by a rule of its own
    OUT_OF_RANGE  the judge's score is outside its scale
    UNREADABLE    the judge's reply holds no score
    FAILED        the judge could not be asked, or gave no readable reply after all attempts
    NOT_JUDGED    the judge has not been asked yet
    ============  ==============================================================================================
    """

    JUDGED = "judged"
    NO_VERDICT = "neither yes nor no"
    UNREAD = "not of the form asked for"
    EXCLUDED = "left out as published"
    OUT_OF_RANGE = "scored outside the scale"
    UNREADABLE = "unreadable verdict"
    FAILED = "judge failed"
    NOT_JUDGED = "not judged yet"


ANSWERS = (Asking.ANSWERED, Asking.EMPTY)
COUNTED = (Judging.JUDGED, Judging.NO_VERDICT, Judging.UNREAD)
"""States of judging with which an answer counts in official values; answers in other states are unjudged."""
UNUSUAL = (Asking.EMPTY, Judging.NO_VERDICT, Judging.UNREAD)
"""States of answers that count and say something unusual."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One planned question.

    Args:
        index: position in the test set.
        id: official id; a test set may repeat one.
        judging: None without an answer.
        reason: why the question has no answer, or its answer no verdict.
        detail: what was found in this case, such as the reply of the judge; shown with an example.
        repeated: a later question with the same id is answered too: published scripts judge an id once.
        similar: what was looked for, and which file of a similar name was taken; None where the name is right.
        lenient: what a lenient judge overlooked in the reply that judges its answer, see `judges.wild_text`.
        fragile: whether rounding alone can change the answer; None where that is not known, see `question.Prediction`.
    """

    index: int
    id: str
    video: str
    type: str | None
    asking: Asking
    judging: Judging | None = None
    reason: str | None = None
    detail: str | None = None
    repeated: bool = False
    similar: str | None = None
    lenient: tuple[str, ...] = ()
    fragile: bool | None = None

    @property
    def answered(self) -> bool:
        """Whether there is an answer, an empty one included."""
        return self.asking in ANSWERS

    @property
    def counted(self) -> bool:
        """Whether it is answered, and judged or measured."""
        return self.judging in COUNTED

    @property
    def unjudged(self) -> bool:
        """Whether it is answered, but not in any official value."""
        return self.judging is not None and self.judging not in COUNTED

    @property
    def unusual(self) -> tuple[str, ...]:
        """What is unusual about an answer that counts: its state, and whether it is fragile."""
        if not self.counted:
            return ()
        states = [str(state) for state in UNUSUAL if state in (self.asking, self.judging)]
        return (*states, *(["fragile"] if self.fragile else []))

    @property
    def state(self) -> Asking | Judging:
        """The state that explains why it does or does not count."""
        return self.asking if not self.answered or self.judging is None else self.judging


@dataclass(frozen=True)
class Ledger:
    """The planned questions of a run, in the order of the test set."""

    entries: tuple[Entry, ...]

    @property
    def planned(self) -> int:
        return len(self.entries)

    @property
    def answered(self) -> int:
        return sum(entry.answered for entry in self.entries)

    def count(self, state: Asking | Judging) -> int:
        """Number of questions in this state."""
        return sum(state in (entry.asking, entry.judging) for entry in self.entries)

    def __str__(self) -> str:
        """For example ``5 of 7 questions answered (1 empty), 1 without file, 1 failed``."""
        empty = f" ({self.count(Asking.EMPTY)} empty)" if self.count(Asking.EMPTY) else ""
        others = [(self.count(state), state) for state in (Asking.NO_FILE, Asking.FAILED, Asking.NOT_ASKED)]
        notes = "".join(f", {count} {state}" for count, state in others if count)
        return f"{self.answered} of {self.planned} questions answered{empty}{notes}"

    def reasons(self) -> tuple[str, ...]:
        """Returns what is unusual about answers, and why questions do not count, see `reason_lines`."""
        return reason_lines(self.entries)


def reason_lines(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Returns a line on files of similar names and one on lenient verdicts, one per unusual state of answers that
    count, then one per state and reason why questions do not count: number, reason and examples. Fragile answers have
    a line of the score's own.

    The most frequent reason of a state comes first; rare ones share a line.
    """
    grouped: dict[tuple[Asking | Judging, str], list[Entry]] = {}
    for entry in entries:
        if entry.reason is not None:
            grouped.setdefault((entry.state, entry.reason), []).append(entry)
    similar = [entry.similar for entry in entries if entry.answered and entry.similar is not None]
    missed = f"(first: {similar[0]}), which the published scripts count as missing" if similar else ""
    lines = [f"{len(similar)} questions under similar names {missed}"] if similar else []
    lines += _lenient_lines([entry for entry in entries if entry.lenient and entry.counted])
    unusual = {what: [entry for entry in entries if what in entry.unusual] for what in map(str, UNUSUAL)}
    lines += [f"{len(found)} {what}: {examples(found)}" for what, found in unusual.items() if found]
    for state in [*Asking, *Judging]:
        reasons = [(reason, found) for (of, reason), found in grouped.items() if of is state]
        reasons.sort(key=lambda one: -len(one[1]))
        rare = [entry for _, found in reasons[REASONS:] for entry in found]
        lines += [f"{len(found)} {state}: {reason} ({examples(found)})" for reason, found in reasons[:REASONS]]
        lines += [f"{len(rare)} {state}: {len(reasons) - REASONS} other reasons ({examples(rare)})"] if rare else []
    return tuple(lines)


def _lenient_lines(entries: Sequence[Entry]) -> list[str]:
    """What was overlooked in the replies that count, with the number of replies."""
    if not entries:
        return []
    counts = Counter(what for entry in entries for what in entry.lenient)
    overlooked = ", ".join(f"{what} {count}" for what, count in counts.most_common())
    return [f"{len(entries)} verdicts read leniently: {overlooked} ({examples(entries)})"]


def examples(entries: Sequence[Entry]) -> str:
    """Returns the ids of the first of these questions, at least one, with what was found in the first case."""
    first, *others = entries[:EXAMPLES]
    shown = [first.id if first.detail is None else f"{first.id}: {first.detail}", *(entry.id for entry in others)]
    return ", ".join([*shown, "..."] if len(entries) > EXAMPLES else shown)
