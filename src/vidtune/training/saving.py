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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim import Optimizer

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


def save_checkpoint(
    stage_folder: Path, step: int, net: nn.Module, optimizer: Optimizer, state: dict[str, Any], keep: int
) -> Path:
    """Write the checkpoint after ``step`` optimizer steps and delete all but the ``keep`` newest."""
    target = stage_folder / f"{PREFIX}{step}"
    with atomic_folder(target) as folder:
        weights, moments = get_state_dict(net, optimizer, options=_OPTIONS)
        writer = dcp.FileSystemWriter(folder, sync_files=False)
        with _one_process_is_fine():
            dcp.save({"weights": weights, "optimizer": moments}, storage_writer=writer)
        (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    for old in checkpoints(stage_folder)[:-keep]:
        doomed = old.rename(old.with_name(old.name + PARTIAL))
        shutil.rmtree(doomed)
    return target


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The ``state.json`` of a checkpoint."""
    return json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))


def load_checkpoint(checkpoint: Path, net: nn.Module, optimizer: Optimizer) -> None:
    """Put the trained weights and the optimizer's moments back."""
    weights, moments = get_state_dict(net, optimizer, options=_OPTIONS)
    with _one_process_is_fine():
        dcp.load({"weights": weights, "optimizer": moments}, checkpoint_id=checkpoint)
    set_state_dict(net, optimizer, model_state_dict=weights, optim_state_dict=moments, options=_OPTIONS)


@contextmanager
def _one_process_is_fine() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
