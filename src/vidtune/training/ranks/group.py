"""The group of processes that train together: the place of this process in it, and how the processes agree.

``torchrun``, ``accelerate launch`` and ``vidtune train --processes`` set RANK, WORLD_SIZE, LOCAL_RANK and MASTER_ADDR.
``srun`` sets SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID and the list of hosts. Without any of these variables there is
one process, and no process group.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vidtune.errors import UserError
from vidtune.machine.devices import pick_device
from vidtune.training.signals import TrainingInterrupted

JOIN_TIMEOUT = timedelta(minutes=10)
# How long a rank waits for the others inside a step; the media time-out limits the length of a step.
STEP_TIMEOUT = timedelta(minutes=30)
# One rank may build tables or load weights for hours while the others wait.
SET_UP_TIMEOUT = timedelta(days=2)
# Time for a launcher to end the ranks that fail only because another one did, before they print anything.
PATIENCE_SECONDS = 1.0

Result = TypeVar("Result")


class RankFailed(Exception):
    """Another rank failed with an error that is not a mistake of the user. That rank shows the error."""

    exit_code = 1


@dataclass(frozen=True)
class ProcessPlace:
    """The place of this process among all processes that train together.

    Args:
        rank, world: number of this process, and number of processes.
        local_rank, local_world: the same among the processes of this machine.
        host, port: address at which rank 0 listens; None for one process.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    host: str | None = None
    port: int | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "ProcessPlace":
        """Read the environment variables of the launcher.

        Raises:
            UserError: variables that are missing or contradict each other; names them.
        """
        if "RANK" in environment or "WORLD_SIZE" in environment:
            return cls._from_torchrun(environment)
        if "SLURM_PROCID" in environment and "SLURM_NTASKS" in environment:
            return cls._from_slurm(environment)
        return cls()

    @classmethod
    def _from_torchrun(cls, environment: Mapping[str, str]) -> "ProcessPlace":
        world = _number(environment, "WORLD_SIZE")
        rank = _number(environment, "RANK")
        local_rank = _number(environment, "LOCAL_RANK", 0 if world == 1 else None)
        local_world = _number(environment, "LOCAL_WORLD_SIZE", max(1, local_rank + 1))
        _check("RANK", rank, "WORLD_SIZE", world)
        _check("LOCAL_RANK", local_rank, "LOCAL_WORLD_SIZE", local_world)
        if local_world > world:
            raise UserError(f"LOCAL_WORLD_SIZE={local_world} is more than WORLD_SIZE={world}; set both or neither")
        if world == 1:
            return cls()
        host = environment.get("MASTER_ADDR")
        if not host:
            raise UserError(f"WORLD_SIZE={world} but MASTER_ADDR, where rank 0 listens, is not set; use a launcher")
        return cls(rank, world, local_rank, local_world, host, _number(environment, "MASTER_PORT"))

    @classmethod
    def _from_slurm(cls, environment: Mapping[str, str]) -> "ProcessPlace":
        # SLURM_NTASKS counts the tasks of the job; a step (srun) may have fewer.
        size = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
        rank, world = _number(environment, "SLURM_PROCID"), _number(environment, size)
        local_rank = _number(environment, "SLURM_LOCALID", 0 if world == 1 else None)
        _check("SLURM_PROCID", rank, size, world)
        _check("SLURM_LOCALID", local_rank, size, world)
        if world == 1:
            return cls()
        host = environment.get("MASTER_ADDR") or first_host(
            environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
        )
        if not host:
            raise UserError(f"{size}={world} but neither MASTER_ADDR nor SLURM_JOB_NODELIST says where rank 0 is")
        port = 15000 + _number(environment, "SLURM_JOB_ID", 0) % 20000
        tasks = re.match(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
        local_world = max(int(tasks[0]) if tasks else 1, local_rank + 1)
        return cls(rank, world, local_rank, local_world, host, _number(environment, "MASTER_PORT", port))


class Ranks:
    """All processes of a run. All of them must call the methods that gather or agree.

    Args:
        place: the place of this process.
        device: the device of this process.
    """

    def __init__(self, place: ProcessPlace, device: torch.device) -> None:
        self.rank, self.world = place.rank, place.world
        self.local_rank, self.local_world = place.local_rank, place.local_world
        self.device = device
        self._objects = self.new_group(SET_UP_TIMEOUT)

    @property
    def is_main(self) -> bool:
        """Whether this rank writes logs and results."""
        return self.rank == 0

    def new_group(self, timeout: timedelta) -> dist.ProcessGroup | None:
        """Returns a new process group of all ranks for objects and CPU tensors; None for one process."""
        return dist.new_group(backend="gloo", timeout=timeout) if self.world > 1 else None

    def table(self, numbers: Tensor) -> Tensor:
        """Returns the numbers of every rank. Shape: (K,) on CPU -> (world, K)"""
        if self.world == 1:
            return numbers[None]
        rows = [torch.empty_like(numbers) for _ in range(self.world)]
        dist.all_gather(rows, numbers)
        return torch.stack(rows)

    def gather(self, value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
        """Returns the values of all ranks, in the order of the ranks.

        Args:
            value: value of this rank; must be picklable.
            group: group of :meth:`new_group`, for a thread beside the training; None: the default group.
        """
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=group or self._objects)
        return values

    def agree(self, error: Exception | None, group: dist.ProcessGroup | None = None) -> None:
        """Raise on every rank if any rank has an error.

        Raises:
            UserError: a mistake of the user, with the rank if not all ranks have it.
            RankFailed: another rank has another error; that rank raises it.
        """
        if self.world == 1:
            if error is not None:
                raise error
            return
        known = isinstance(error, UserError)
        errors = self.gather((known, str(error)) if error is not None else None, group)
        failed = {rank: found for rank, found in enumerate(errors) if found is not None}
        if not failed:
            return
        if error is not None and not known:
            raise error
        for rank, (is_mistake, _) in failed.items():
            if not is_mistake:
                raise RankFailed(f"rank {rank} failed")
        rank, (_, text) = next(iter(failed.items()))
        alike = len(failed) == self.world and len(set(failed.values())) == 1
        raise UserError(text if alike or text.startswith("rank ") else f"rank {rank}: {text}") from error

    @contextmanager
    def agreed(self, group: dist.ProcessGroup | None = None) -> Iterator[None]:
        """Run the block on every rank; an error in one of them is raised on all, see :meth:`agree`."""
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        self.agree(error, group)

    def main_first(self, build: Callable[[], Result]) -> Result:
        """Call ``build`` on rank 0, then on the other ranks, which find the files that rank 0 has written."""
        results: list[Result] = []
        for turn in (True, False):
            with self.agreed():
                if self.is_main is turn:
                    results.append(build())
        return results[0]


@contextmanager
def speaking_once(ranks: Ranks) -> Iterator[None]:
    """Context manager for a program of several ranks that prints every message once.

    Rank 0 prints messages that all ranks have; the other ranks exit silently with the same exit code. A rank that
    fails alone prints its own error.
    """
    try:
        yield
    except (UserError, TrainingInterrupted) as error:
        if ranks.is_main:
            raise
        raise SystemExit(error.exit_code) from error
    except RankFailed as error:
        time.sleep(2 * PATIENCE_SECONDS)
        raise SystemExit(error.exit_code) from error
    except Exception:
        if ranks.world > 1:
            time.sleep(PATIENCE_SECONDS)
        raise


@contextmanager
def joined(device: str | None = None) -> Iterator[Ranks]:
    """Join the other processes of the run, if the environment names any.

    Args:
        device: device of torch; None takes the GPU of this process if there is one.

    Raises:
        UserError: variables that contradict each other, too few GPUs, or processes that do not join.
    """
    place = ProcessPlace.from_environment()
    target = compute_device(place, device)
    if place.world == 1 or dist.is_initialized():
        yield Ranks(place, target)
        return
    backend = "gloo"
    if target.type == "cuda":
        torch.cuda.set_device(target)
        backend = "cpu:gloo,cuda:nccl"
    try:
        address = f"tcp://{place.host}:{place.port}"
        store, _, _ = next(dist.rendezvous(address, place.rank, place.world, timeout=JOIN_TIMEOUT))
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.world, timeout=STEP_TIMEOUT)
    except (dist.DistError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"rank {place.rank} cannot meet the other {place.world - 1} processes at {place.host}:{place.port}: "
            f"{reason}; are all of them started, and is the port free?"
        ) from error
    intact = True
    try:
        yield Ranks(place, target)
    except RuntimeError:
        # Errors of torch: other ranks may be gone or wait in a collective, and leaving the group would wait for them.
        intact = False
        raise
    finally:
        if intact:
            dist.destroy_process_group()


def compute_device(place: ProcessPlace, device: str | None) -> torch.device:
    """Returns the device of a process: ``device`` if given, else the GPU of this process, else the CPU.

    Raises:
        UserError: torch does not know the device, it is not there, or this machine has too few GPUs.
    """
    if device is not None and not (device == "cuda" and torch.cuda.is_available()):
        pick_device(device)  # not for "cuda": it would take memory of the first GPU for every process
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if target.type != "cuda" or target.index is not None or place.world == 1:
        return target
    count = torch.cuda.device_count()
    if place.local_rank < count:
        return torch.device("cuda", place.local_rank)
    if count == 1 and "CUDA_VISIBLE_DEVICES" in os.environ:
        return torch.device("cuda", 0)  # a launcher that gives each process its own GPU
    raise UserError(
        f"process {place.local_rank + 1} of this machine finds {count} GPU(s); start one process per GPU, or use "
        "device cpu"
    )


def first_host(nodes: str) -> str:
    """Returns the first host of a Slurm list: "node[03-05,7],login1" -> "node03"."""
    found = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,\[]*))?", nodes)
    return "".join(part or "" for part in found.groups()) if found else ""


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None:
        if default is None:
            present = ", ".join(key for key in ("RANK", "WORLD_SIZE", "SLURM_PROCID") if key in environment)
            raise UserError(f"{present} set, but {name} is not: processes that train together need all of them")
        return default
    if not text.isdigit():
        raise UserError(f"{name}={text!r} is no number; a launcher sets it")
    return int(text)


def _check(name: str, number: int, of: str, count: int) -> None:
    if number >= count:
        raise UserError(
            f"{name}={number} does not go with {of}={count}: it counts from 0; unset them or use a launcher"
        )
