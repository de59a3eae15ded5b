"""One progress bar for the passes of an evaluation: done, rate, time left; on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(title: str, total: int, *, enabled: bool = True) -> Iterator[Callable[[], None]]:
    """Yield a function that marks one item as done. Nothing is shown when there is nothing to do."""
    if not enabled or total == 0:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(title, total=total, rate="")

        def advance() -> None:
            bars.advance(task)
            speed = bars.tasks[0].speed
            bars.update(task, rate=f"{speed:.1f}/s" if speed else "")

        yield advance
