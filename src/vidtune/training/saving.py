"""Step checkpoints that are either complete or not there: written to a temporary folder, synced to disk, then renamed.

A step checkpoint holds what training changed: the trained weights and the optimizer state
(``torch.distributed.checkpoint``, so that another number of ranks can read it) and ``state.json``. Frozen weights are
loaded again from what the stage started from. No generator state is saved, because randomness is seeded per step.
"""

import json
import re
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim import Optimizer

from vidtune.errors import UserError
from vidtune.machine.files import disk_errors, force_to_disk, move_into_place, remove_leftovers, temporary_beside
from vidtune.training.ranks.group import SET_UP_TIMEOUT, Ranks
from vidtune.training.step_files import StepPlanner, StepReader

PREFIX, STATE = "checkpoint-", "state.json"
DAMAGED = "damaged-"
"""Before the name of a checkpoint that could not be read."""
_OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)
_EARLIER_PARTIAL = re.compile(rf"{PREFIX}\d+\.partial")
"""Temporary step checkpoints of earlier versions, whose unfinished runs can be continued."""
_IN_A_STEP_CHECKPOINT = re.compile(r"\.metadata(\.tmp)?|__\d+_\d+\.distcp|state\.json")


def remove_unfinished(folder: Path) -> None:
    """Delete the temporary files and folders that a killed training process left in a folder of its run.

    What holds other files than those of a step checkpoint is kept, whatever its name: it may be a user's.
    """
    remove_leftovers(folder)
    for path in folder.glob(f"{PREFIX}*.partial"):
        is_ours = _EARLIER_PARTIAL.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
        if is_ours and all(_IN_A_STEP_CHECKPOINT.fullmatch(inner.name) for inner in path.iterdir()):
            shutil.rmtree(path)


def checkpoints(stage_folder: Path) -> list[Path]:
    """Returns the step checkpoints of a stage, oldest first; a copy that was stopped may have left one incomplete."""
    found = [p for p in stage_folder.glob(f"{PREFIX}*") if p.name.removeprefix(PREFIX).isdecimal() and p.is_dir()]
    return sorted(found, key=lambda p: int(p.name.removeprefix(PREFIX)))


def set_aside(checkpoint: Path) -> Path:
    """Give a damaged checkpoint another name, so that training can write it again. Returns its new path."""
    ends = ("" if number == 1 else f".{number}" for number in count(1))
    names = (checkpoint.with_name(f"{DAMAGED}{checkpoint.name}{end}") for end in ends)
    return checkpoint.rename(next(name for name in names if not name.exists()))


class Saver:
    """Writes step checkpoints of all ranks while training continues: a step waits only until its weights are copied.

    One checkpoint is written at a time. It gets its name when the parts of all ranks are on disk; then all but the
    ``keep`` newest checkpoints are deleted. All ranks must call every method. Leaving the context completes the
    checkpoint that is being written.

    Args:
        stage_folder: folder of the stage.
        net: module that holds the weights, wrapped as it is trained.
        optimizer: optimizer of the trained weights.
        keep: number of checkpoints to keep.
        ranks: the processes that train together.
    """

    def __init__(self, stage_folder: Path, net: nn.Module, optimizer: Optimizer, keep: int, ranks: Ranks) -> None:
        self._folder, self._net, self._optimizer, self._keep = stage_folder, net, optimizer, keep
        self._ranks = ranks
        # A process group of its own, because training uses the others at the same time.
        self._group = ranks.new_group(SET_UP_TIMEOUT)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-writer")
        self._pending: Future[None] | None = None
        if ranks.world == 1:  # torch warns, but one process needs no process group
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.shutdown()

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Begin to write the checkpoint after ``step`` optimizer steps. Returns its folder."""
        self.wait()
        target = self._folder / f"{PREFIX}{step}"
        partial = self._ranks.gather(temporary_beside(target))[0]
        with self._ranks.agreed():
            if self._ranks.is_main:
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
        """Wait until no checkpoint is being written; raise the error of the last one, if it failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def load(self, checkpoint: Path) -> None:
        """Load the trained weights and the optimizer state of a checkpoint, saved by any number of ranks.

        Raises:
            UserError: the checkpoint cannot be read.
        """
        with self._ranks.agreed():
            reader = StepReader(checkpoint)
        weights, moments = get_state_dict(self._net, self._optimizer, options=_OPTIONS)
        try:
            dcp.load(
                {"weights": weights, "optimizer": moments},
                storage_reader=reader,
                planner=StepPlanner(),
                process_group=self._group,
            )
        except CheckpointException as error:  # its class does not derive from Exception
            cause = _cause(error)
            if isinstance(cause, UserError):
                raise cause from None
            raise UserError(f"{checkpoint}: cannot be read ({' '.join(str(cause).split())})") from error
        set_state_dict(self._net, self._optimizer, model_state_dict=weights, optim_state_dict=moments, options=_OPTIONS)

    def _complete(self, copied: "Future[Any]", partial: Path, target: Path, state: str) -> None:
        try:
            self._write(copied, partial, target, state)
        except BaseException:  # such as a full disk, which what is left would keep full
            if self._ranks.is_main:
                shutil.rmtree(partial, ignore_errors=True)
            raise

    def _write(self, copied: "Future[Any]", partial: Path, target: Path, state: str) -> None:
        with self._ranks.agreed(self._group), disk_errors(target):
            try:
                copied.result()
            except CheckpointException as error:  # raised on all ranks; its class does not derive from Exception
                raise _cause(error) from error
            for path in partial.glob(f"__{self._ranks.rank}_*"):
                force_to_disk(path)
        with self._ranks.agreed(self._group), disk_errors(target):
            if self._ranks.is_main:
                (partial / STATE).write_text(state, encoding="utf-8")
                move_into_place(partial, target)
                for old in [one for one in checkpoints(self._folder) if (one / STATE).is_file()][: -self._keep]:
                    shutil.rmtree(old.rename(temporary_beside(old)))


def _cause(error: CheckpointException) -> BaseException:
    """Returns the error of the first rank that failed."""
    return next(iter(error.failures.values()))[0]
