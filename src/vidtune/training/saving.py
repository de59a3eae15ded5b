"""Checkpoints that are either complete or not there: written to a ``.partial`` folder, synced to disk, then renamed.

A step checkpoint holds what training changed: the trained weights and the optimizer
(``torch.distributed.checkpoint``, so that another number of ranks can read it) and ``state.json``. Frozen weights
come again from what the stage started from, and there is no generator state, because randomness is seeded by step.
"""

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim import Optimizer

from vidtune.errors import UserError
from vidtune.training.ranks.group import SET_UP_TIMEOUT, Ranks

PARTIAL = ".partial"
PREFIX = "checkpoint-"
_OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into that takes the name ``folder`` only when the block is through and all its bytes are on
    disk.
    """
    partial = folder.with_name(folder.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    finish_folder(partial, folder)


def finish_folder(partial: Path, folder: Path) -> None:
    """Give a written folder its name once all its bytes are on disk."""
    for path in [*partial.rglob("*"), partial]:
        _sync(path)
    partial.rename(folder)
    _sync(folder.parent)


def write_atomic(path: Path, text: str) -> None:
    """Replace a small text file so that a reader sees the old or the new content, never half of one."""
    partial = path.with_name(path.name + PARTIAL)
    partial.write_text(text, encoding="utf-8")
    _sync(partial)
    partial.rename(path)
    _sync(path.parent)


def remove_partial(folder: Path) -> None:
    """Delete what a killed process left half-written in ``folder``."""
    for path in folder.glob(f"*{PARTIAL}"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def checkpoints(stage_folder: Path) -> list[Path]:
    """Complete step checkpoints of a stage, oldest first."""
    found = [p for p in stage_folder.glob(f"{PREFIX}*") if p.name.removeprefix(PREFIX).isdigit()]
    return sorted((p for p in found if (p / "state.json").is_file()), key=lambda p: int(p.name.removeprefix(PREFIX)))


class Saver:
    """Writes step checkpoints of all ranks behind the training: a step waits only while its weights are copied.

    One checkpoint is written at a time. It takes its name when every rank's part of it is on disk; all but the ``keep``
    newest are then deleted. All ranks must call every method. As a context it completes what is being written.
    """

    def __init__(self, stage_folder: Path, net: nn.Module, optimizer: Optimizer, keep: int, ranks: Ranks) -> None:
        self._folder, self._net, self._optimizer, self._keep = stage_folder, net, optimizer, keep
        self._ranks = ranks
        # Apart from the groups of the training, which works at the same time.
        self._group = ranks.new_group(SET_UP_TIMEOUT)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-writer")
        self._pending: Future[None] | None = None
        if ranks.world == 1:  # which is fine
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.shutdown()

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Begin to write the checkpoint after ``step`` optimizer steps. Returns its place."""
        self.wait()
        target = self._folder / f"{PREFIX}{step}"
        partial = target.with_name(target.name + PARTIAL)
        with self._ranks.agreed():
            if self._ranks.is_main:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
        weights, moments = get_state_dict(self._net, self._optimizer, options=_OPTIONS)
        copied = dcp.async_save(
            {"weights": weights, "optimizer": moments},
            storage_writer=dcp.FileSystemWriter(partial, sync_files=False),
            process_group=self._group,
        )
        content = json.dumps(state, indent=1)
        self._pending = self._writer.submit(self._complete, cast("Future[Any]", copied), partial, target, content)
        return target

    def wait(self) -> None:
        """Return when no checkpoint is being written any more; raise what went wrong with the last one."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def load(self, checkpoint: Path) -> None:
        """Put the trained weights and the optimizer's moments back, saved by any number of ranks."""
        weights, moments = get_state_dict(self._net, self._optimizer, options=_OPTIONS)
        try:
            dcp.load({"weights": weights, "optimizer": moments}, checkpoint_id=checkpoint, process_group=self._group)
        except CheckpointException as error:
            raise UserError(
                f"{checkpoint}: cannot be read: {_cause(error)}; move it away to go on from the one before, if there "
                "is one"
            ) from error
        set_state_dict(self._net, self._optimizer, model_state_dict=weights, optim_state_dict=moments, options=_OPTIONS)

    def _complete(self, copied: "Future[Any]", partial: Path, target: Path, state: str) -> None:
        with self._ranks.agreed(self._group):
            try:
                copied.result()
            except CheckpointException as error:  # on all ranks; no Exception by its class
                raise _cause(error) from error
            for path in partial.glob(f"__{self._ranks.rank}_*"):
                _sync(path)
        with self._ranks.agreed(self._group):
            if self._ranks.is_main:
                (partial / "state.json").write_text(state, encoding="utf-8")
                finish_folder(partial, target)
                for old in checkpoints(self._folder)[: -self._keep]:
                    doomed = old.rename(old.with_name(old.name + PARTIAL))
                    shutil.rmtree(doomed)


def _cause(error: CheckpointException) -> BaseException:
    """What went wrong, on the first of the ranks on which it did."""
    return next(iter(error.failures.values()))[0]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
