"""Context manager that hides the progress bars of transformers, which would stand between our own lines."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def without_progress_bar() -> Iterator[None]:
    """Hide the bars that transformers draws while it loads or saves weights."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
