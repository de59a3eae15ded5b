"""Console output of a stage: its progress, and the numbers of its log in words."""

import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console

from vidtune.machine.progress import ProgressDisplay

# The hint is shown from this share of the time spent waiting for data.
MUCH_WAITING = 0.2
HINT = "for data: vidtune doctor says why"


class StageProgress:
    """Shows loss, tokens per second, use of the device, gradient norm, memory, waiting for data and time left.

    Args:
        stage: name of the stage, shown in front.
        total: number of optimizer steps of the stage.
        done: number of steps that were done before a resumed run.
        enabled: False shows nothing but notes.
        recent: seconds that each of the last steps before ``done`` took.
        console: where to write; None: standard error.
        clock: returns seconds.
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
        self._stage, self._total = stage, total
        self._display = ProgressDisplay(enabled=enabled, console=console, clock=clock)
        self._display.start(stage, total, done, recent)

    def __enter__(self) -> "StageProgress":
        self._display.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.__exit__(kind, error, trace)

    def step(self, done: int) -> None:
        """Count one more finished optimizer step; ``done`` steps are finished now."""
        self._display.count(self._stage, done, self._total)

    def time_left(self) -> str:
        """Returns the time that the rest of the stage takes, such as "2 d 3 h"; "?" if it is not known."""
        return self._display.time_left(self._stage)

    def numbers(self, line: Mapping[str, Any]) -> None:
        """Show a log line, see :mod:`vidtune.training.log`."""
        self._display(self._stage, line["step"], self._total, summary(line))

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._display.note(text)


def summary(line: Mapping[str, Any]) -> str:
    """Returns a log line in words; numbers that it does not hold are left out."""
    words = ["no supervised token" if line["loss"] is None else f"loss {line['loss']:.4f}"]
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
