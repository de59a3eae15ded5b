"""The one place through which every text goes to the terminal: file names, answers and judges may hold escape codes."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from vidtune.errors import UserError
from vidtune.spelling import one_line, visible


class ShownText:
    """A text stream that shows control characters, which a terminal would obey, as escapes.

    Args:
        stream: where the texts go.

    Attributes:
        rich_proxied_file: ``stream``, to which the library rich writes: its bars are made of control characters. Texts
            in them are made visible by `vidtune.machine.progress`.
    """

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        self.rich_proxied_file.write(visible(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # by which libraries would write past this
            raise AttributeError(name)
        return getattr(self.rich_proxied_file, name)


@contextmanager
def shown_text() -> Iterator[None]:
    """Context manager in which everything that is printed goes through `ShownText`."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (ShownText(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def show_error(error: UserError) -> None:
    """Print one line, and one for each further mistake, on standard error, whatever the texts quote."""
    message = error.with_options or Exception.__str__(error)
    print(f"error: {one_line(message)}", *(f"  {one_line(one)}" for one in error.listed), sep="\n", file=sys.stderr)


def show_line(text: object, *, err: bool = False) -> None:
    """Print one line, at once also into a pipe, whatever the text quotes."""
    print(one_line(str(text)), file=sys.stderr if err else sys.stdout, flush=True)


def warn(text: object) -> None:
    """Print one line of warning on standard error, whatever the text quotes."""
    print(f"warning: {one_line(str(text))}", file=sys.stderr)
