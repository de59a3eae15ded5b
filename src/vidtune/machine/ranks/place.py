"""The place of this process among those that a launcher has started, and the device that it computes on.

``torchrun``, ``accelerate launch`` and ``--processes`` set RANK, WORLD_SIZE, LOCAL_RANK and MASTER_ADDR. ``srun`` sets
SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID and the list of hosts. Without any of these variables there is one process.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vidtune.errors import UserError
from vidtune.machine.cores import thread_budget
from vidtune.machine.devices import pick_device

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ProcessPlace:
    """The place of this process among all processes that work together.

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


def compute_device(place: ProcessPlace, device: str | None) -> "torch.device":
    """Returns the device of a process: ``device`` if given, else the GPU of this process, else the CPU.

    Raises:
        UserError: torch does not know the device, it is not there, or this machine has too few GPUs.
    """
    import torch

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


def own_device(place: ProcessPlace, device: str | None) -> str:
    """Returns the device of a process, see `compute_device`; on a CPU it gets its share of the cores.

    Raises:
        UserError: as `compute_device`.
    """
    import torch

    if place.world == 1:
        return pick_device(device)
    target = compute_device(place, device)
    if target.type == "cpu":
        torch.set_num_threads(thread_budget(place.local_world))
    return str(target)


def first_host(nodes: str) -> str:
    """Returns the first host of a Slurm list: "node[03-05,7],login1" -> "node03"."""
    found = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,\[]*))?", nodes)
    return "".join(part or "" for part in found.groups()) if found else ""


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None:
        if default is None:
            present = ", ".join(key for key in ("RANK", "WORLD_SIZE", "SLURM_PROCID") if key in environment)
            raise UserError(f"{present} set, but {name} is not: processes that work together need all of them")
        return default
    if not text.isdigit():
        raise UserError(f"{name}={text!r} is no number; a launcher sets it")
    return int(text)


def _check(name: str, number: int, of: str, count: int) -> None:
    if number >= count:
        raise UserError(
            f"{name}={number} does not go with {of}={count}: it counts from 0; unset them or use a launcher"
        )
