"""A few real steps of a stage, measured part by part, to find what holds training up; see :mod:`training.advice`.

One process, in a folder of its own: what the user's run has done is neither read nor changed. The device is waited for
after every part, so that its time is counted where it belongs; training itself does not wait.
"""

import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from vidtune.errors import UserError
from vidtune.machine.cores import available_cores, media_workers, thread_budget
from vidtune.machine.memory import memory_limit
from vidtune.media.pool import LoadJob, LoadResult, MediaPool
from vidtune.processing.batch import Batch, Example
from vidtune.recipe.types import Recipe, Stage
from vidtune.spelling import suggestion
from vidtune.training.log import peak_memory_gib
from vidtune.training.packs.ahead import Ahead
from vidtune.training.packs.forward import PackForward
from vidtune.training.packs.loading import PackLoader
from vidtune.training.packs.transfer import Transfer
from vidtune.training.ranks.group import ProcessPlace, Ranks, compute_device
from vidtune.training.ranks.parallel import ParallelForward
from vidtune.training.setup.parameters import parameter_groups
from vidtune.training.setup.stage import EXCLUSIONS, TABLES, StageSetup, check_stages, set_up
from vidtune.training.setup.starting_model import frozen_dtype
from vidtune.training.step import fill_missing_gradients, gradient_norms

PARTS = ("transfer", "forward", "backward", "optimizer")


@dataclass
class Measurements:
    """What the steps took. Seconds and counts are of all measured steps together.

    Args:
        stage: its settings.
        device: type of the device, such as "cuda".
        cores: of this machine; ``threads`` compute on the CPU, ``workers`` decode.
        seconds: wall time.
        waiting: of these, waiting for a pack.
        parts: of these, by name, see ``PARTS``.
        tokenizing: seconds of the loading thread, beside the steps.
        files: seconds that a worker spent on each file of the steps.
        decoding_cpu: how many of all these it computed; the rest it waited for the disk or for a core.
        failed: reason per file that could not be read.
        media_bytes: of the pixels that went to the device; ``float_streams`` sent them as float32.
        memory, memory_limit: most bytes held on the device at a time, and how many it has; of this process and of the
            machine on CPU.
    """

    stage: Stage
    device: str = "cpu"
    cores: int = 1
    threads: int = 1
    workers: int = 0
    steps: int = 0
    packs: int = 0
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    tokenizing: float = 0.0
    decoding_cpu: float = 0.0
    files: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    media_bytes: int = 0
    float_streams: tuple[str, ...] = ()
    memory: float = 0.0
    memory_limit: float = 0.0

    @property
    def working(self) -> float:
        """Seconds not spent waiting for data."""
        return self.seconds - self.waiting

    @property
    def decoding(self) -> float:
        """Seconds that workers spent on the files of the steps, all together."""
        return sum(self.files.values())

    @property
    def fill(self) -> float:
        """Share of the token limit that packs use."""
        return self.tokens / (self.packs * self.stage.max_tokens_per_batch)


def examine(
    recipe: Recipe, *, stage: str | None = None, steps: int = 8, device: str | None = None, out: Path | None = None
) -> Measurements:
    """Run a few steps of a stage.

    Where the stage starts from the result of another one, the recipe's own model stands in for it: the work is the
    same.

    Args:
        stage: its name; None: the first.
        steps: optimizer steps to measure; one more comes before them.
        device: of torch; None takes a GPU when there is one.
        out: folder of the user's run: lengths counted there are used, and samples excluded there left out.

    Raises:
        UserError: what training would refuse; a step that does not fit into memory, or for which nothing can be read.
    """
    alone = _only(recipe, stage, steps + 1)
    check_stages(alone)
    target = compute_device(ProcessPlace(), device)
    with tempfile.TemporaryDirectory(prefix="vidtune-doctor-") as folder:
        if out is not None:
            _borrow(out, Path(folder), alone.stages[0].name)
        setup = set_up(alone, 0, Path(folder))
        try:
            return _measure(setup, target, steps)
        except torch.OutOfMemoryError:
            raise UserError(
                f"stage {setup.stage.name!r}: a step with packs of {setup.stage.max_tokens_per_batch} tokens does not "
                f"fit into the memory of {target}; lower max_tokens_per_batch, set gradient_checkpointing: true, or "
                "train on several devices with parallel: fsdp2"
            ) from None


def _only(recipe: Recipe, name: str | None, steps: int) -> Recipe:
    """The recipe with one stage, which needs no other."""
    names = [stage.name for stage in recipe.stages]
    if name is not None and name not in names:
        raise UserError(f"no stage {name!r} in the recipe; {suggestion(name, names)}")
    chosen = recipe.stages[names.index(name) if name else 0] if names else None
    if chosen is None:
        return recipe
    source = None if chosen.from_ in names else chosen.from_
    chosen = chosen.model_copy(update={"from_": source, "max_steps": steps})
    return recipe.model_copy(update={"stages": (chosen,), "trackers": ()})


def _borrow(out: Path, folder: Path, stage: str) -> None:
    """Let the examination use the tables of a run, and leave out what it leaves out."""
    if (out / TABLES).is_dir():
        (folder / TABLES).symlink_to((out / TABLES).resolve())
    if (out / stage / EXCLUSIONS).is_file():
        (folder / stage).mkdir()
        shutil.copy(out / stage / EXCLUSIONS, folder / stage / EXCLUSIONS)


def _measure(setup: StageSetup, device: torch.device, steps: int) -> Measurements:
    stage, preprocessing = setup.stage, setup.processor.preprocessing
    workers = media_workers(stage.workers)
    torch.set_num_threads(thread_budget(workers=0 if device.type == "cpu" else workers))
    tokenizing, steps_of = _Stopwatch(setup), _Steps(setup, device)
    with _WatchedPool(workers, stage.media_timeout) as pool:
        loader = PackLoader(setup.plan, tokenizing.example, preprocessing, pool)
        with Ahead(iter(loader), max_bytes=pool.max_waiting) as packs:
            # Apart from the rest: it starts workers, fills caches and makes the optimizer's state.
            steps_of.run(1, packs, Measurements(stage))
            found = Measurements(stage, device.type, available_cores(), torch.get_num_threads(), workers)
            used = steps_of.run(steps, packs, found)
    found.failed = {path: result.error.reason for path, result in pool.results.items() if result.error is not None}
    if not found.packs:
        reason = next((f"{path}: {reason}" for path, reason in found.failed.items()), "all of them are excluded")
        raise UserError(f"stage {stage.name!r}: no sample of the first steps can be used; {reason}")
    read = {path: result for path, result in pool.results.items() if path in used or path in found.failed}
    found.files = {path: result.seconds for path, result in read.items()}
    found.decoding_cpu = sum(result.cpu_seconds for result in read.values())
    found.tokenizing = tokenizing.mean * found.samples
    found.float_streams = tuple(name for name, how in preprocessing.items() if getattr(how, "pixels", "") == "float32")
    found.memory = peak_memory_gib(device) * 2**30
    on_device = device.type == "cuda"
    found.memory_limit = torch.cuda.get_device_properties(device).total_memory if on_device else memory_limit()
    return found


class _Steps:
    """Optimizer steps as training makes them on one process.

    Args:
        setup: its model is moved to the device, and trained.
    """

    def __init__(self, setup: StageSetup, device: torch.device) -> None:
        stage = setup.stage
        self._device = device
        self._step = ParallelForward(PackForward(setup.model, stage.precision), stage, Ranks(ProcessPlace(), device))
        groups = parameter_groups(setup.model, setup.trained, stage.weight_decay)
        self._optimizer = torch.optim.AdamW(groups, betas=stage.betas, eps=1e-8, fused=True)
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        self._transfer = Transfer(device, setup.processor.preprocessing)
        self._teachers = setup.teachers
        self._teachers.to(device, frozen_dtype(stage))

    def run(self, count: int, packs: Ahead, found: Measurements) -> set[str]:
        """Make steps and add up what they took and held. Returns the media files of their samples."""
        used: set[str] = set()
        started, waited = time.perf_counter(), packs.seconds_waited
        for _ in range(count):
            is_last = False
            while not is_last:
                pack = packs.next()
                is_last = pack.is_last
                used.update(slot.ref.path for example in pack.examples for slot in example.media)
                if pack.batch is not None:
                    self._backward(pack.batch, is_last, found)
            with self._part("optimizer", found):
                fill_missing_gradients(self._parameters)
                gradient_norms({"all": self._parameters}).tolist()
                self._optimizer.step()
                self._optimizer.zero_grad(set_to_none=True)
        found.steps = count
        found.seconds, found.waiting = time.perf_counter() - started, packs.seconds_waited - waited
        return used

    def _backward(self, batch: Batch, is_last: bool, found: Measurements) -> None:
        with self._part("transfer", found):
            moved = self._transfer.take(batch)
        with self._part("forward", found):
            moved = self._teachers.teach(moved)
        with self._step.accumulate(is_last):
            with self._part("forward", found):
                loss = self._step.net(moved, self._teachers.weights).total
            with self._part("backward", found):
                loss.backward()
        found.packs += 1
        found.samples += len(batch.ids)
        found.tokens += batch.num_tokens
        found.media_bytes += sum(tensor.nbytes for media in batch.media.values() for tensor in media.tensors())

    @contextmanager
    def _part(self, name: str, found: Measurements) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        found.parts[name] += time.perf_counter() - started


class _WatchedPool(MediaPool):
    """Remembers what became of each file; not the seconds of the first ones, which hold the start of the workers."""

    def __init__(self, workers: int, timeout: float | None) -> None:
        super().__init__(workers, timeout)
        self.results: dict[str, LoadResult] = {}
        self._starting = max(workers, 1)

    def load(self, jobs: Iterable[LoadJob]) -> Iterator[LoadResult]:
        for result in super().load(jobs):
            if result.error is not None or not self._starting:
                known = LoadResult(result.job, None, result.error, result.seconds, cpu_seconds=result.cpu_seconds)
                self.results.setdefault(result.job.path, known)
            self._starting = max(0, self._starting - 1)
            yield result


class _Stopwatch:
    """Times the tokenising of a setup's examples; in the loading thread."""

    def __init__(self, setup: StageSetup) -> None:
        self._setup, self._seconds, self._count = setup, 0.0, 0

    def example(self, index: int, epoch: int) -> Example:
        started = time.perf_counter()
        try:
            return self._setup.example(index, epoch)
        finally:
            self._seconds += time.perf_counter() - started
            self._count += 1

    @property
    def mean(self) -> float:
        """Seconds per example."""
        return self._seconds / max(self._count, 1)
