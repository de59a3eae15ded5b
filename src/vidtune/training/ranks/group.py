"""The group of processes that train together, and how the processes agree. For one process there is no group."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vidtune.errors import RecipeError, UserError
from vidtune.machine.ranks.place import ProcessPlace, compute_device
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

    def rows(self, tables: Sequence[Tensor]) -> tuple[list[Tensor], int]:
        """Returns the rows of all ranks, in the order of the ranks, and the place of this rank's first one.

        Args:
            tables: tensors of this rank with equally many rows, on its device; other ranks may have another number.
                Shape: (n, ...) each
        """
        if self.world == 1:
            return list(tables), 0
        counts = self.table(torch.tensor([len(tables[0])]))[:, 0].tolist()
        gathered = []
        for table in tables:
            padded = table.new_zeros(max(counts), *table.shape[1:])
            padded[: len(table)] = table
            parts = [torch.empty_like(padded) for _ in counts]
            dist.all_gather(parts, padded)
            gathered.append(torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]))
        return gathered, sum(counts[: self.rank])

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
        kind = RecipeError if isinstance(error, RecipeError) else UserError
        raise kind(text if alike or text.startswith("rank ") else f"rank {rank}: {text}") from error

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
