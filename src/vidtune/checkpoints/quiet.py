"""transformers' own progress bars, which would stand between our lines, once per process."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def without_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing bars while it loads or saves weights."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
