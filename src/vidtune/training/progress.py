"""Console progress of a stage: a live bar on a terminal, a plain line now and then elsewhere, or nothing."""

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_LINE_SECONDS = 15.0


class StageProgress:
    """Shows loss, tokens per second, time spent waiting for data, memory and time left.

    Args:
        stage: name shown in front.
        total: optimizer steps of the stage.
        done: how many a resumed run has behind it.
        enabled: False shows nothing but notes.
    """

    def __init__(self, stage: str, total: int, done: int, enabled: bool = True) -> None:
        self._console = Console(stderr=True)
        self._stage, self._total = stage, total
        self._enabled, self._live = enabled, enabled and self._console.is_terminal
        self._last_line = time.monotonic()
        self._first, self._started = done, time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._live,
            refresh_per_second=2,
        )
        self._task = self._bar.add_task(stage, total=total, completed=done, numbers="")

    def __enter__(self) -> "StageProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, done: int) -> None:
        """One more optimizer step is through."""
        if self._live:
            self._bar.update(self._task, completed=done)

    def numbers(self, line: dict[str, Any]) -> None:
        """Show a log line, see :mod:`vidtune.training.log`."""
        text = (
            f"loss {line['loss']:.4f}  {line['tokens_per_second']:,.0f} tokens/s  "
            f"data wait {line['data_wait']:.0%}  {line['memory_gib']:.1f} GiB"
        )
        if self._live:
            self._bar.update(self._task, numbers=text)
        elif self._enabled and self._is_due(line["step"]):
            left = (time.monotonic() - self._started) / (line["step"] - self._first) * (self._total - line["step"])
            self._console.print(
                f"{self._stage} {line['step']}/{self._total}  {text}  {left:.0f} s left", highlight=False
            )

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._bar.console.print(text, highlight=False, markup=False)

    def _is_due(self, step: int) -> bool:
        now = time.monotonic()
        if step < self._total and now - self._last_line < PLAIN_LINE_SECONDS:
            return False
        self._last_line = now
        return True
