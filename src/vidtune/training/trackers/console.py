"""Console progress of a stage: a live bar on a terminal, a plain line now and then elsewhere, or nothing."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from statistics import median
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

PLAIN_LINE_SECONDS = 15.0
RECENT_STEPS = 50
# Waiting that is worth a word: the share of the time from which the hint is shown.
MUCH_WAITING = 0.2
HINT = "for data: vidtune doctor says why"


class StageProgress:
    """Shows loss, tokens per second, use of the device, gradient norm, memory, waiting for data and time left.

    Args:
        stage: name shown in front.
        total: optimizer steps of the stage.
        done: how many a resumed run has behind it.
        enabled: False shows nothing but notes.
        recent: seconds that the last steps before ``done`` took.
        console: where to; None: stderr.
        clock: in seconds.
    """

    def __init__(
        self,
        stage: str,
        total: int,
        done: int,
        enabled: bool = True,
        recent: Iterable[float] = (),
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(stderr=True)
        self._stage, self._total = stage, total
        self._enabled, self._is_live = enabled, enabled and self._console.is_terminal
        self._clock, self._last_line = clock, clock()
        self._recent = deque(recent, maxlen=RECENT_STEPS)
        self._step_ended: float | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]} left"),
            console=self._console,
        )
        self._task = self._bar.add_task(stage, total=total, completed=done, left=self.time_left(done))
        self._numbers = Text()
        self._live = Live(Group(self._bar, self._numbers), console=self._console, refresh_per_second=2)

    def __enter__(self) -> "StageProgress":
        if self._is_live:
            self._live.start()
        self._step_ended = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_live:
            self._live.stop()

    def step(self, done: int) -> None:
        """One more optimizer step is through."""
        now = self._clock()
        if self._step_ended is not None:
            self._recent.append(now - self._step_ended)
        self._step_ended = now
        if self._is_live:
            self._bar.update(self._task, completed=done, left=self.time_left(done))

    def time_left(self, done: int) -> str:
        """As "2 d 3 h" or "?"; from the median of recent steps, which a checkpoint or a slow file does not sway."""
        return duration(median(self._recent) * (self._total - done)) if self._recent else "?"

    def numbers(self, line: Mapping[str, Any]) -> None:
        """Show a log line, see :mod:`vidtune.training.log`."""
        if self._is_live:
            self._numbers.plain = summary(line)
        elif self._enabled and self._is_due(line["step"]):
            left = self.time_left(line["step"])
            self._console.print(
                f"{self._stage} {line['step']}/{self._total}  {summary(line)}  {left} left",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _is_due(self, step: int) -> bool:
        now = self._clock()
        if step < self._total and now - self._last_line < PLAIN_LINE_SECONDS:
            return False
        self._last_line = now
        return True


def summary(line: Mapping[str, Any]) -> str:
    """A log line in words; what it does not hold is left out."""
    words = [f"loss {line['loss']:.4f}"]
    words += [f"{name} {value:.4f}" for name, value in line.get("losses", {}).items()]
    words += [f"norm {line['gradient_norm']['total']:.3g}", f"{line['tokens_per_second']:,.0f} tokens/s"]
    if line.get("mfu") is not None:
        words.append(f"MFU {line['mfu']:.1%}")
    if line.get("ranks", 1) > 1:
        words.append(f"{line['ranks']} ranks")
    words.append(f"{line['memory_gib']:.1f} GiB")
    much = line["data_wait"] > MUCH_WAITING
    words.append(f"waits {line['data_wait']:.0%} {HINT}" if much else f"data wait {line['data_wait']:.0%}")
    return "  ".join(words)


def duration(seconds: float) -> str:
    """The two largest units of a time span: "3 d 4 h", "1 h 20 min", "2 min 5 s", "7 s"."""
    rest = round(seconds)
    words: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        number, rest = divmod(rest, size)
        if number or words or unit == "s":
            words.append(f"{number} {unit}")
    return " ".join(words[:2])
