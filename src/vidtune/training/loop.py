"""The training loop of one stage, on one process or many.

An optimizer step takes ``global_batch_size`` samples, in as many packs as ``max_tokens_per_batch`` makes of them, dealt
out over the ranks. Gradients of the plain sum are accumulated and divided once by the number of supervised tokens that
were really seen on all ranks, so neither packing nor ranks nor a file that failed change what is minimised. The run is
a function of recipe and data alone: resumed, it gives the same weights.
"""

import json
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from vidtune.errors import UserError
from vidtune.machine.cores import media_workers
from vidtune.media.pool import MediaPool
from vidtune.models.batch_norm_statistics import deferred_statistics
from vidtune.processing.batch import Batch
from vidtune.training.exclusions import Excluded
from vidtune.training.inspection.flops import StepFlops, peak_flops
from vidtune.training.log import TrainingLog, recent_step_seconds
from vidtune.training.packs.counts import StepCounts, StepTotals, Window, exchange
from vidtune.training.packs.loading import Ahead, PackLoader
from vidtune.training.packs.transfer import Transfer
from vidtune.training.progress import StageProgress
from vidtune.training.ranks.group import Ranks
from vidtune.training.ranks.parallel import ParallelStep
from vidtune.training.result import write_result
from vidtune.training.saving import Saver, atomic_folder, checkpoints, write_atomic
from vidtune.training.schedule import learning_rate_factor, warmup_steps
from vidtune.training.setup.parameters import parameter_groups
from vidtune.training.setup.run_folder import FINAL
from vidtune.training.setup.stage import StageSetup
from vidtune.training.setup.starting_model import frozen_dtype
from vidtune.training.signals import StopRequest, TrainingInterrupted
from vidtune.training.state import check_state, read_state, stage_state
from vidtune.training.step import (
    StepLoss,
    TrainingStep,
    clipping_factor,
    dummy_batch,
    fill_missing_gradients,
    gradient_norms,
    random_seed,
    scale_gradients,
)
from vidtune.training.trackers import open_trackers


class StageLoop:
    """Runs a stage from its start, or from its newest checkpoint, to ``final/``.

    Args:
        setup: the stage; its model is moved to this rank's device.
        ranks: who trains together.
        stop: asks the loop to save and leave after the current step.
        progress: whether to show progress on the console.
    """

    def __init__(self, setup: StageSetup, ranks: Ranks, stop: StopRequest, progress: bool) -> None:
        self.setup, self.stage, self.ranks, self.stop = setup, setup.stage, ranks, stop
        self.plan, self.exclusions = setup.plan, setup.exclusions
        self.transfer = Transfer(ranks.device, setup.processor.preprocessing)
        self.step = ParallelStep(TrainingStep(setup.model, self.stage.precision), self.stage, ranks)
        groups = parameter_groups(setup.model, setup.trained, self.stage.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, betas=self.stage.betas, eps=1e-8, fused=True)
        self.by_component: dict[str, list[nn.Parameter]] = {name: [] for name in setup.trained}
        for group in groups:
            self.by_component[group["component"]] += group["params"]
        self.parameters = [parameter for part in self.by_component.values() for parameter in part]
        self.total = self.plan.total_steps
        self.warmup = warmup_steps(self.total, self.stage.warmup)
        peak = peak_flops(ranks.device, self.stage.precision)
        self.teachers = setup.teachers
        taught = {stream: tower.config for stream, tower in self.teachers.towers.items()}
        self.flops = StepFlops.of_stage(setup.model.config, setup.trained, taught) if peak else None
        self.teachers.to(ranks.device, frozen_dtype(self.stage))
        self.stored = setup.stored
        setup.model.keep_features, self.teachers.keep_features = self.stored.keep, self.stored.keep_taught
        self.window = Window(peak * ranks.world if peak and self.flops else None, tuple(self.teachers.weights))
        self.statistics = deferred_statistics(setup.model)
        self.saver = Saver(setup.folder, self.step.net, self.optimizer, self.stage.keep, ranks)
        self.first_step = 0
        notes = self._resume()
        recent = recent_step_seconds(setup.folder, self.first_step) if ranks.is_main else ()
        self.console = StageProgress(self.stage.name, self.total, self.first_step, progress and ranks.is_main, recent)
        for note in [*notes, *self.stored.notes]:
            self._note(note)

    def run(self) -> Path:
        """Train to the end and write ``final/``.

        Raises:
            TrainingInterrupted: asked to stop; what was done is saved.
            UserError: the loss is not finite, too many media failed, a sample does not fit into a pack.
        """
        stage = self.stage
        workers = media_workers(stage.workers, self.ranks.local_world)
        pool = MediaPool(workers, stage.media_timeout, processes=self.ranks.local_world)
        with pool, self.saver, self.stored:
            self.loader = PackLoader(
                self.plan,
                self.setup.example,
                self.setup.processor.preprocessing,
                pool,
                first_step=self.first_step,
                known=self.exclusions.entries,
                rank=self.ranks.rank,
                world=self.ranks.world,
                teachers=self.teachers.preprocessing,
                stored=self.stored,
            )
            with self.ranks.agreed():
                self.log = self._open_log() if self.ranks.is_main else None
            try:
                with self.console, Ahead(iter(self.loader), max_bytes=pool.max_waiting) as packs:
                    self._train(packs)
            finally:
                if self.log is not None:
                    self.log.close()
            self.saver.wait()
        self._note_problems()
        return self._save_final()

    def _train(self, packs: Ahead) -> None:
        for step in range(self.first_step, self.total):
            rates = self._set_learning_rates(step)
            counts = self._accumulate(step, packs)
            totals = self._exchange(step, counts, packs.seconds_waited)
            norms = self._update(totals)
            self.window.add(totals)
            done = step + 1
            self.console.step(done)
            if done % self.stage.log_every == 0 or done == self.total:
                self._write_log(done, totals, rates, norms)
            if totals.sum("stopping") and done < self.total:
                self._leave(done)
            if done % self.stage.save_every == 0 and done < self.total:
                self._save(done)

    def _set_learning_rates(self, step: int) -> dict[str, float]:
        factor = learning_rate_factor(self.stage.schedule, step, self.total, self.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        return {name: how.learning_rate * factor for name, how in self.setup.trained.items()}

    def _accumulate(self, step: int, packs: Ahead) -> StepCounts:
        """Add up the gradients of this rank's packs of a step.

        A rank that cannot go on makes the passes that the others wait for, and says so at the end of the step.
        """
        counts = StepCounts(tuple(self.teachers.weights))
        factors = self.teachers.factors(self.plan, step)
        passes = -(-len(self.plan.packs(step)) // self.ranks.world)  # of every rank, dummies among them
        for place in range(passes):
            batch = None
            if counts.error is None:
                try:
                    pack = packs.next().without(self.exclusions.failed_files())
                except Exception as error:
                    counts.error = error
                else:
                    counts.excluded += pack.excluded
                    batch = pack.batch
            if batch is None:
                if self.ranks.world > 1:
                    self._backward(dummy_batch(), factors, place == passes - 1)
                continue
            assert pack.number is not None
            torch.manual_seed(random_seed(self.setup.recipe.seed, step, pack.number))
            loss = self._backward(batch, factors, place == passes - 1)
            self.transfer.begin(packs.upcoming())
            counts.add(batch, loss, pack.num_supervised, self._flops_of(batch, pack.num_supervised))
        return counts

    def _backward(self, batch: Batch, factors: dict[str, float], is_last: bool) -> StepLoss:
        """Add the gradients of a pack. Returns its summed losses, without a graph."""
        taught = self.teachers.teach(self.transfer.take(batch))
        with self.step.accumulate(is_last):
            loss: StepLoss = self.step.net(taught, factors)
            loss.total.backward()
        return loss._replace(total=loss.total.detach())

    def _flops_of(self, batch: Batch, supervised: int) -> float:
        if self.flops is None:
            return 0.0
        squares = sum((end - begin) ** 2 for begin, end in pairwise(batch.cu_seqlens))
        items = {stream: len(media) - sum(media.encoded or ()) for stream, media in batch.media.items()}
        return self.flops.of(batch.num_tokens, squares, items, supervised)

    def _exchange(self, step: int, counts: StepCounts, waited: float) -> StepTotals:
        """Tell the other ranks what this one's part of the step came to, and hear of theirs."""
        fill_missing_gradients(self.parameters)
        norms = gradient_norms(self.by_component)
        stopping = self.stop.step_done()
        totals = exchange(self.ranks, counts, norms, self.step.is_sharded, waited, stopping)
        if totals.sum("failed"):
            self.ranks.agree(counts.error)
        if totals.sum("excluded"):
            self._leave_out(step, [entry for part in self.ranks.gather(counts.excluded) for entry in part])
        if not totals.is_finite:
            self._refuse_nonfinite(step, counts, totals)
        return totals

    def _leave_out(self, step: int, excluded: list[Excluded]) -> None:
        for entry in self.exclusions.add(excluded):
            where = f"{entry.path}: " if entry.path else ""
            after = f" (rank {entry.rank}, after {entry.seconds:.1f} s)" if entry.path else ""
            self._note(f"sample {entry.id!r} left out: {where}{entry.reason}{after}")
        self.loader.learn(self.exclusions.failed_files())
        self.exclusions.check_threshold(step, self.plan.samples_until(step + 1))

    def _update(self, totals: StepTotals) -> dict[str, float]:
        """One optimizer step. Returns the gradient norms (before clipping) by component and in total."""
        # The ranks' gradients were averaged: what is wanted is their sum over the tokens that all of them saw.
        mean = self.ranks.world / max(totals.sum("supervised"), 1)
        *each, total = totals.norms(mean)
        scale_gradients(self.parameters, clipping_factor(total, self.stage.max_grad_norm) * mean)
        for layer in self.statistics:
            layer.update_statistics(self.ranks.table(layer.take_statistics()).sum(0))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {**dict(zip(self.by_component, each, strict=True)), "total": total}

    def _refuse_nonfinite(self, step: int, counts: StepCounts, totals: StepTotals) -> None:
        packs = [
            {"rank": self.ranks.rank, "loss": str(float(loss.sum())), "ids": ids}
            for loss, ids in zip(counts.losses, counts.ids, strict=True)
        ]
        report = {
            "step": step + 1,
            "gradient_norms": [str(norm) for norm in totals.norms(1.0)],
            "packs": [pack for part in self.ranks.gather(packs) for pack in part],
        }
        path = self.setup.folder / f"nonfinite-step-{step + 1}.json"
        if self.ranks.is_main:
            write_atomic(path, json.dumps(report, indent=1))
        raise UserError(
            f"stage {self.stage.name!r}: the loss or its gradient is not finite in step {step + 1}; {path} names the "
            "samples of that step; lower the learning rate, set max_grad_norm, or look at these samples"
        )

    def _open_log(self) -> TrainingLog:
        recipe, folder = self.setup.recipe, self.setup.folder
        trackers = open_trackers(recipe.trackers, folder, recipe, self.first_step, self._note)
        return TrainingLog(folder, self.first_step, trackers)

    def _write_log(self, done: int, totals: StepTotals, rates: dict[str, float], norms: dict[str, float]) -> None:
        line = {
            "step": done,
            "epoch": round(done / self.plan.steps_per_epoch, 4),
            **self.window.line(totals),
            "learning_rate": rates,
            "gradient_norm": norms,
            "ranks": self.ranks.world,
        }
        if self.log is not None:
            self.log.write(line)
            self.console.numbers(line)
        self._note_problems()

    def _note_problems(self) -> None:
        for problem in self.stored.problems():
            self._note(problem)

    def _note(self, text: str) -> None:
        if self.ranks.is_main:
            self.console.note(text)

    def _leave(self, done: int) -> None:
        reason = next(filter(None, self.ranks.gather(self.stop.reason)))
        checkpoint = self._save(done)
        self.saver.wait()
        raise TrainingInterrupted(
            f"stopped by {reason} after step {done} of {self.total} of stage {self.stage.name!r}, saved in "
            f"{checkpoint}; run the same command again to go on"
        )

    def _save(self, done: int) -> Path:
        return self.saver.save(done, stage_state(self.setup, self.ranks, done))

    def _resume(self) -> list[str]:
        """Load the newest checkpoint, if there is one. Returns what to tell about it."""
        found = checkpoints(self.setup.folder) if self.ranks.is_main else []
        newest = self.ranks.gather(found[-1] if found else None)[0]
        if newest is None:
            return []
        state = read_state(newest)
        notes = check_state(newest, state, self.setup, self.ranks)
        self.saver.load(newest)
        self.exclusions.merge(state["excluded"])
        self.first_step = state["step"]
        return notes

    def _save_final(self) -> Path:
        final = self.setup.folder / FINAL
        weights = self.step.whole_weights(self.setup.result_needs_frozen)
        with self.ranks.agreed():
            if self.ranks.is_main:
                with atomic_folder(final) as folder:
                    write_result(self.setup, folder, weights)
                    provenance = stage_state(self.setup, self.ranks, self.total)
                    (folder / "provenance.json").write_text(json.dumps(provenance, indent=1), encoding="utf-8")
        return final
