"""Measures a few real steps of a stage, part by part, to find what slows training down.

:mod:`vidtune.training.inspection.advice` interprets the measurements. One process runs the steps in a temporary folder;
the folder of the user's run is not changed. After every part the process waits for the device, so that its time counts
for the right part; training itself does not wait.
"""

import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from vidtune.errors import UserError
from vidtune.machine.cores import available_cores, media_workers, thread_budget
from vidtune.machine.memory import memory_limit
from vidtune.machine.ranks.place import ProcessPlace, compute_device
from vidtune.media.pool import LoadJob, LoadResult, MediaPool
from vidtune.models.text_alignment.contrast import Pairs, contrast_loss
from vidtune.processing.batch import Batch, Example
from vidtune.recipe.types import Recipe, Stage
from vidtune.training.forward import PackLosses
from vidtune.training.log import peak_memory_gib
from vidtune.training.optimizers import build_optimizer
from vidtune.training.packs.ahead import Ahead
from vidtune.training.packs.loading import PackLoader
from vidtune.training.packs.transfer import Transfer
from vidtune.training.ranks.group import Ranks
from vidtune.training.ranks.parallel import ParallelForward
from vidtune.training.setup.checks import check_stages, chosen_stages
from vidtune.training.setup.parameters import parameter_groups
from vidtune.training.setup.run_folder import borrow
from vidtune.training.setup.stage import StageSetup, set_up
from vidtune.training.setup.starting_model import frozen_dtype
from vidtune.training.step import fill_missing_gradients, gradient_norms, stage_forward

PARTS = ("transfer", "forward", "backward", "optimizer")


@dataclass
class StepMeasurements:
    """StepMeasurements of a few steps. Seconds and counts are sums over all measured steps.

    Args:
        stage: settings of the stage.
        device: type of the device, such as "cuda".
        cores, threads, workers: number of cores of this machine, of threads that compute on the CPU, and of worker
            processes that decode media.
        seconds: wall time.
        waiting: seconds of ``seconds`` that were spent waiting for a pack.
        parts: seconds of ``seconds`` by part, see ``PARTS``.
        tokenizing: seconds of the loading thread, which works beside the steps.
        files: seconds that a worker spent on each media file of the steps.
        decoding_cpu: seconds of all ``files`` in which the worker computed; else it waited for the disk or for a core.
        decoding_queued: seconds of all ``files`` in which the worker waited for a core; None if that is not known.
        failed: reason for each file that could not be read.
        media_bytes: bytes of the pixels that were copied to the device.
        float_streams: streams whose pixels were copied as float32.
        memory, memory_limit: peak bytes on the device, and bytes that it has; on CPU, of this process and the machine.
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
    decoding_queued: float | None = None
    files: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    media_bytes: int = 0
    float_streams: tuple[str, ...] = ()
    memory: float = 0.0
    memory_limit: float = 0.0

    @property
    def working(self) -> float:
        """Seconds that were not spent waiting for data."""
        return self.seconds - self.waiting

    @property
    def decoding(self) -> float:
        """Seconds that all workers together spent on the files of the steps."""
        return sum(self.files.values())

    @property
    def fill(self) -> float:
        """Share of the token limit that the packs fill."""
        return self.tokens / (self.packs * self.stage.max_tokens_per_batch)


def examine(
    recipe: Recipe, *, stage: str | None = None, steps: int = 8, device: str | None = None, out: Path | None = None
) -> StepMeasurements:
    """Run a few steps of a stage and return the measurements.

    If the stage starts from the result of another stage, the recipe's own model is used instead; the work is the same.

    Args:
        stage: name of the stage; None: the first.
        steps: number of optimizer steps to measure; one more step runs before them.
        device: device of torch; None takes a GPU if there is one.
        out: folder of the user's run: lengths counted there are used, and samples excluded there are left out. Nothing
            is written there.

    Raises:
        UserError: a mistake that training would refuse; a step that does not fit into memory; no readable sample.
    """
    alone = _only(recipe, stage, steps + 1)
    check_stages(alone)
    target = compute_device(ProcessPlace(), device)
    with tempfile.TemporaryDirectory(prefix="vidtune-doctor-") as folder:
        if out is not None:
            borrow(out, Path(folder), alone)
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
    """Returns the recipe with one stage that does not depend on another one."""
    if not recipe.stages:
        return recipe
    chosen = chosen_stages(recipe, name)[0]
    source = None if chosen.from_ in [stage.name for stage in recipe.stages] else chosen.from_
    chosen = chosen.model_copy(update={"from_": source, "max_steps": steps})
    return recipe.model_copy(update={"stages": (chosen,), "trackers": ()})


def _measure(setup: StageSetup, device: torch.device, steps: int) -> StepMeasurements:
    stage, preprocessing = setup.stage, setup.processor.preprocessing
    workers = media_workers(stage.workers)
    torch.set_num_threads(thread_budget(workers=0 if device.type == "cpu" else workers))
    tokenizing, steps_of = _Stopwatch(setup), _Steps(setup, device)
    with _WatchedPool(workers, stage.media_timeout) as pool:
        loader = PackLoader(setup.plan, tokenizing.example, preprocessing, pool)
        with Ahead(iter(loader), max_bytes=pool.max_waiting) as packs:
            # The first step is not measured: it starts workers, fills caches and creates the optimizer state.
            steps_of.run(1, packs, StepMeasurements(stage))
            found = StepMeasurements(stage, device.type, available_cores(), torch.get_num_threads(), workers)
            used = steps_of.run(steps, packs, found)
    found.failed = {
        path: result.error.seen_from(path) for path, result in pool.results.items() if result.error is not None
    }
    if not found.packs:
        reason = next((f"{path}: {reason}" for path, reason in found.failed.items()), "all of them are excluded")
        raise UserError(f"stage {stage.name!r}: no sample of the first steps can be used; {reason}")
    read = {path: result for path, result in pool.results.items() if path in used or path in found.failed}
    found.files = {path: result.seconds for path, result in read.items()}
    found.decoding_cpu = sum(result.cpu_seconds for result in read.values())
    queued = [result.queued_seconds for result in read.values()]
    found.decoding_queued = None if None in queued else sum(seconds or 0.0 for seconds in queued)
    found.tokenizing = tokenizing.mean * found.samples
    found.float_streams = tuple(name for name, how in preprocessing.items() if getattr(how, "pixels", "") == "float32")
    found.memory = peak_memory_gib(device) * 2**30
    on_device = device.type == "cuda"
    found.memory_limit = torch.cuda.get_device_properties(device).total_memory if on_device else memory_limit()
    return found


class _Steps:
    """Makes optimizer steps as training does on one process, with a clock around every part.

    Args:
        setup: the stage; its model is moved to the device, and trained.
    """

    def __init__(self, setup: StageSetup, device: torch.device) -> None:
        stage = setup.stage
        self._device, self._contrast = device, setup.contrast
        self._step = ParallelForward(stage_forward(setup), stage, Ranks(ProcessPlace(), device))
        groups = parameter_groups(setup.model, setup.trained, stage.weight_decay, stage.optimizer, setup.contrast)
        self._optimizer = build_optimizer(groups, stage)
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        self._transfer = Transfer(device, setup.processor.preprocessing)
        self._teachers = setup.teachers
        self._teachers.to(device, frozen_dtype(stage))

    def run(self, count: int, packs: Ahead, found: StepMeasurements) -> set[str]:
        """Make steps and add their measurements to ``found``. Returns the media files of their samples."""
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

    def _loss(self, batch: Batch) -> Tensor:
        """Loss of a pack; in a contrastive stage that of its own pairs alone."""
        if self._contrast is None:
            losses: PackLosses = self._step.net(batch, self._teachers.weights)
            return losses.total
        pairs: Pairs = self._step.net(batch)
        return contrast_loss(*pairs[:5], self._contrast.config.loss) + pairs.untouched

    def _backward(self, batch: Batch, is_last: bool, found: StepMeasurements) -> None:
        with self._part("transfer", found):
            moved = self._transfer.take(batch)
        with self._part("forward", found):
            moved = self._teachers.teach(moved)
        with self._step.accumulate(is_last):
            with self._part("forward", found):
                loss = self._loss(moved)
            with self._part("backward", found):
                loss.backward()
        found.packs += 1
        found.samples += len(batch.ids)
        found.tokens += batch.num_tokens
        found.media_bytes += sum(
            tensor.nbytes for items in batch.media.values() for item in items for tensor in item.tensors()
        )

    @contextmanager
    def _part(self, name: str, found: StepMeasurements) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        found.parts[name] += time.perf_counter() - started


class _WatchedPool(MediaPool):
    """Media pool that remembers the result of each file. The first ones count without time: workers start with them."""

    def __init__(self, workers: int, timeout: float | None) -> None:
        super().__init__(workers, timeout)
        self.results: dict[str, LoadResult] = {}
        self._starting = max(workers, 1)

    def load(self, jobs: Iterable[LoadJob]) -> Iterator[LoadResult]:
        for result in super().load(jobs):
            if result.error is not None or not self._starting:
                known = replace(result, array=None, second=None, extras=None, info=None)
                self.results.setdefault(result.job.path, known)
            self._starting = max(0, self._starting - 1)
            yield result


class _Stopwatch:
    """Measures the time of making examples, in the loading thread."""

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
        """Mean seconds per example."""
        return self._seconds / max(self._count, 1)
