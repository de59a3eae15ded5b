"""Context managers that hide what transformers shows, which would stand between our own lines."""

import logging as standard_logging
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


@contextmanager
def without_load_report() -> Iterator[None]:
    """Hide the table of weights that were drawn; who loads a model reports them by their names."""
    logger = standard_logging.getLogger("transformers.modeling_utils")
    shown = logger.disabled
    logger.disabled = True  # not a higher level, at which transformers looks for weights that it did not shard
    try:
        yield
    finally:
        logger.disabled = shown
