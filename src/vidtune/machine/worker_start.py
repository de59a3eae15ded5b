"""Starting worker processes: forked from a clean server process that has the libraries loaded, so that one starts in
hundredths of a second, and without a second run of the program's main module.
"""

import multiprocessing
import multiprocessing.spawn
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

_PROCESS_NAME = "vidtune-worker"
_PRELOADED = ["av", "torch", "vidtune.media.worker"]
_patch_lock = threading.Lock()


def start_worker(serve: Callable[..., None], *args: Any) -> tuple[BaseProcess, Connection]:
    """Run ``serve(connection, *args)`` in a new process; gives the process and our end of its connection."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, *args), name=_PROCESS_NAME, daemon=True)
    with _main_module_left_alone():
        process.start()
    theirs.close()
    return process, ours


@contextmanager
def _main_module_left_alone() -> Iterator[None]:
    """Keep a starting worker from importing the main module again; other processes started meanwhile are not affected.

    Workers need nothing of it, and importing it would run an unguarded script a second time.
    """
    with _patch_lock:
        original = multiprocessing.spawn.get_preparation_data

        def without_main(name: str) -> dict[str, Any]:
            data = original(name)
            if name.startswith(_PROCESS_NAME):
                data = {key: value for key, value in data.items() if not key.startswith("init_main")}
            return data

        multiprocessing.spawn.get_preparation_data = without_main
        try:
            yield
        finally:
            multiprocessing.spawn.get_preparation_data = original
