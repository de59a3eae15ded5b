"""The progress display of every long task: live bars on a terminal, a plain line now and then elsewhere, or nothing.

It writes to standard error, so that the results on standard output can be piped.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from vidtune.spelling import one_line, visible

PLAIN_LINE_SECONDS = 15.0
RECENT_UPDATES = 50

ProgressCallback = Callable[[str, int, int], None]
"""Callback(task, done, total), called while a task advances: its name and how many of its items are done."""


def no_progress(task: str, done: int, total: int) -> None:
    """Progress callback that does nothing."""


@dataclass
class _Task:
    """One counted task. ``seconds`` holds the recent durations of one item; ``updated`` is the time of the last one."""

    bar: TaskID
    done: int
    total: int
    updated: float
    line_printed: float
    has_lines: bool
    seconds: deque[float]


class ProgressDisplay:
    """Shows how far tasks are, how long they will take, and details of each. It is a `ProgressCallback`.

    Args:
        enabled: False shows nothing but notes.
        plain_lines: print a line now and then where standard error is no terminal; False: nothing there.
        transient: remove the bars at the end.
        console: where to write; None: standard error.
        clock: returns seconds.
    """

    def __init__(
        self,
        *,
        enabled: bool = True,
        plain_lines: bool = True,
        transient: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(stderr=True)
        self._is_live = enabled and self._console.is_terminal
        self._plain_lines = enabled and plain_lines and not self._is_live
        self._clock = clock
        self._tasks: dict[str, _Task] = {}
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
        )
        self._details = Text()
        self._live = Live(
            Group(self._bars, self._details), console=self._console, refresh_per_second=2, transient=transient
        )

    def __enter__(self) -> "ProgressDisplay":
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_live:
            self._live.stop()

    def start(self, task: str, total: int, done: int = 0, recent: Iterable[float] = ()) -> None:
        """Begin a task. `__call__` does it for a task that it does not know.

        Args:
            done: number of items done by an earlier run.
            recent: seconds that each of the last items took.
        """
        now = self._clock()
        bar = self._bars.add_task(visible(task), total=total, completed=done, left="")
        self._tasks[task] = _Task(bar, done, total, now, now, False, deque(recent, maxlen=RECENT_UPDATES))

    def __call__(self, task: str, done: int, total: int, details: str = "") -> None:
        """Show that ``done`` of ``total`` items of a task are done.

        Where there is no terminal, a task that ends within seconds prints no line unless it has details.

        Args:
            details: text behind the counts, in place of that of the call before.
        """
        self.count(task, done, total)
        state = self._tasks[task]
        if self._is_live:
            self._details.plain = visible(details)
        elif self._plain_lines:
            now = self._clock()
            ends = done >= total and (bool(details) or state.has_lines)
            if ends or now - state.line_printed >= PLAIN_LINE_SECONDS:
                state.line_printed, state.has_lines = now, True
                self.note("  ".join(part for part in (f"{task} {done}/{total}", details, self._left(task)) if part))

    def count(self, task: str, done: int, total: int) -> None:
        """Move the bar of a task and take the time; prints no line and keeps the details."""
        if task not in self._tasks:
            self.start(task, total, done)
        state, now = self._tasks[task], self._clock()
        if done < state.done:  # the name stands for other items now
            state.seconds.clear()
            state.updated = state.line_printed = now
            state.has_lines = False
        if done > state.done:
            state.seconds.append((now - state.updated) / (done - state.done))
            state.updated = now
        state.done, state.total = done, total
        if self._is_live:
            self._bars.update(state.bar, completed=done, total=total, left=self._left(task))

    def advance(self, task: str) -> None:
        """Count one more item of a task that was started."""
        state = self._tasks[task]
        self(task, state.done + 1, state.total)

    def time_left(self, task: str) -> str:
        """Return the time that the rest of a task takes, as "2 d 3 h"; "?" if no item was finished.

        It follows the median of recent items, so that a single slow one does not count.
        """
        state = self._tasks[task]
        return duration(median(state.seconds) * (state.total - state.done)) if state.seconds else "?"

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(one_line(text), highlight=False, markup=False, soft_wrap=True)

    def _left(self, task: str) -> str:
        state = self._tasks[task]
        return "" if state.done >= state.total else f"{self.time_left(task)} left"


def duration(seconds: float) -> str:
    """Return a time span in its two largest units: "3 d 4 h", "1 h 20 min", "2 min 5 s", "7 s"."""
    rest = round(seconds)
    words: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        number, rest = divmod(rest, size)
        if number or words or unit == "s":
            words.append(f"{number} {unit}")
    return " ".join(words[:2])
