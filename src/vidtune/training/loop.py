"""The training loop of one stage, on one process or many: its steps, what is logged and saved, and how it stops.

What one step does is in :mod:`vidtune.training.step`. A run is a function of recipe and data alone: a resumed run gives
the same weights.
"""

import json
from pathlib import Path

from vidtune.errors import UserError
from vidtune.machine.cores import media_workers
from vidtune.machine.files import atomic_folder, write_json_atomically
from vidtune.media.kept.place import DecodedFolder
from vidtune.media.pool import MediaPool
from vidtune.recipe.stored import FOLDER, PROVENANCE
from vidtune.training.log import TrainingLog, recent_step_seconds
from vidtune.training.packs.ahead import Ahead
from vidtune.training.packs.counts import StepCounts, StepTotals, Window
from vidtune.training.packs.loading import PackLoader
from vidtune.training.ranks.group import Ranks
from vidtune.training.result import write_result
from vidtune.training.saving import Saver, checkpoints, set_aside
from vidtune.training.setup.exclusions import Excluded
from vidtune.training.setup.run_folder import FINAL
from vidtune.training.setup.stage import StageSetup
from vidtune.training.signals import StopRequest, TrainingInterrupted
from vidtune.training.state import check_state, read_state, stage_state
from vidtune.training.step import OptimizerStep
from vidtune.training.trackers.console import StageProgress
from vidtune.training.trackers.opening import open_trackers


class StageLoop:
    """Runs a stage from its start, or from its newest checkpoint, to ``final/``.

    Args:
        setup: the stage; its model is moved to this rank's device.
        ranks: the processes that train together.
        stop: tells the loop to save and leave after the current step.
        progress: whether to show progress on the console.
    """

    def __init__(self, setup: StageSetup, ranks: Ranks, stop: StopRequest, progress: bool) -> None:
        self.setup, self.stage, self.ranks, self.stop = setup, setup.stage, ranks, stop
        self.plan, self.exclusions, self.stored = setup.plan, setup.exclusions, setup.stored
        self.total = self.plan.total_steps
        self.step = OptimizerStep(setup, ranks)
        setup.model.keep_features, setup.teachers.keep_features = self.stored.keep, self.stored.keep_taught
        if setup.contrast is not None:
            setup.contrast.keep_text = self.stored.keep_text
        self.window = Window(self.step.peak_flops, tuple(setup.teachers.weights))
        self.saver = Saver(setup.folder, self.step.forward.net, self.step.optimizer, self.stage.keep, ranks)
        self.first_step = 0
        notes = self._resume()
        recent = recent_step_seconds(setup.folder, self.first_step) if ranks.is_main else ()
        self.console = StageProgress(self.stage.name, self.total, self.first_step, progress and ranks.is_main, recent)
        for note in [*notes, *setup.data.notes, *self.stored.notes]:
            self._note(note)

    def run(self) -> Path:
        """Train to the end of the stage and write ``final/``. Returns that folder.

        Raises:
            TrainingInterrupted: the loop was told to stop; the finished steps are saved.
            UserError: the loss is not finite, too many media files failed, or a sample does not fit into a pack.
        """
        workers = media_workers(self.stage.workers, self.ranks.local_world)
        pool = MediaPool(
            workers,
            self.stage.media_timeout,
            processes=self.ranks.local_world,
            decoded=DecodedFolder.from_environment(),
        )
        with pool, self.saver, self.stored:
            self.loader = self._pack_loader(pool)
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
            rates = self.step.set_learning_rates(step)
            counts = self.step.accumulate(step, packs, self.exclusions.failed_files())
            totals = self._exchange(step, counts, packs.seconds_waited)
            norms = self.step.update(totals)
            self.window.add(totals)
            done = step + 1
            self.console.step(done)
            if done % self.stage.log_every == 0 or done == self.total:
                self._write_log(done, totals, rates, norms)
            if totals.sum("stopping") and done < self.total:
                self._leave(done, totals)
            if done % self.stage.save_every == 0 and done < self.total:
                self._save(done, totals)

    def _pack_loader(self, pool: MediaPool) -> PackLoader:
        return PackLoader(
            self.plan,
            self.setup.example,
            self.setup.processor.preprocessing,
            pool,
            first_step=self.first_step,
            known=self.exclusions.entries,
            failed=self.exclusions.failed_files(),
            rank=self.ranks.rank,
            world=self.ranks.world,
            teachers=self.setup.teachers.preprocessing,
            stored=self.stored,
        )

    def _exchange(self, step: int, counts: StepCounts, waited: float) -> StepTotals:
        """Exchange the numbers of a step with the other ranks, and act on failures and excluded samples."""
        totals = self.step.exchange(counts, waited, self.stop.step_done())
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
            write_json_atomically(path, report)
        raise UserError(
            f"stage {self.stage.name!r}: the loss or its gradient is not finite in step {step + 1}; {path} names the "
            "samples of that step; lower the learning rate, set max_grad_norm, or look at these samples"
        )

    def _require_finite_weights(self, done: int) -> None:
        """Raise UserError where the last update left NaN or Inf in a weight: it would be saved for good."""
        with self.ranks.agreed():
            if broken := self.step.not_finite():
                raise UserError(
                    f"stage {self.stage.name!r}: weights of {', '.join(broken)} are NaN or Inf after step {done}, "
                    "and are not saved; lower the learning rate, or set max_grad_norm"
                )

    def _require_trained(self) -> None:
        """Raise UserError where no gradient reached any trained component; say which ones none reached."""
        reached = set().union(*self.ranks.gather(self.step.reached()))
        idle = [name for name in self.setup.trained if name not in reached]
        with self.ranks.agreed():
            if len(idle) == len(self.setup.trained):
                raise UserError(
                    f"stage {self.stage.name!r} has trained nothing: no sample gave a gradient, and "
                    f"{len(self.exclusions.entries)} were left out ({self.exclusions.path}); mend the data, and start "
                    "again in another folder"
                )
        for name in idle:
            self._note(f"{name} was not trained: no sample that could be used reached it")

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

    def _leave(self, done: int, totals: StepTotals) -> None:
        reason = next(filter(None, self.ranks.gather(self.stop.reason)))
        checkpoint = self._save(done, totals)
        self.saver.wait()
        raise TrainingInterrupted(
            f"stopped by {reason} after step {done} of {self.total} of stage {self.stage.name!r}, saved in "
            f"{checkpoint}; run the same command again to go on"
        )

    def _save(self, done: int, totals: StepTotals) -> Path:
        self._require_finite_weights(done)
        state = stage_state(self.setup, self.ranks, done)
        return self.saver.save(done, {**state, "since_last_log": self.window.state(totals)})

    def _resume(self) -> list[str]:
        """Load the newest checkpoint that can be read, if there is any. Returns notes for the user about it.

        Raises:
            UserError: there are checkpoints, but none can be read; or the data have changed.
        """
        problems: list[str] = []
        found = self.ranks.gather(checkpoints(self.setup.folder) if self.ranks.is_main else [])[0]
        for newest in reversed(found):
            try:
                with self.ranks.agreed():
                    state = read_state(newest)
                with self.ranks.agreed():
                    self.saver.load(newest)
            except UserError as error:
                problems.append(str(error))
                continue
            notes = check_state(newest, state, self.setup, self.ranks)
            self.exclusions.merge(state["excluded"])
            self.first_step = state["step"]
            self.window.resume(state.get("since_last_log", {}))  # a run of an earlier version kept no sums
            return [*self._set_aside(newest, problems), *notes]
        if problems:
            raise UserError(f"{problems[0]}; no checkpoint can be read: delete them to begin the stage again")
        return []

    def _set_aside(self, newest: Path, problems: list[str]) -> list[str]:
        """Rename the damaged checkpoints after ``newest``, which has been loaded. Returns a note about each."""
        notes = []
        with self.ranks.agreed():
            for problem, damaged in zip(problems, reversed(checkpoints(newest.parent)), strict=False):
                if self.ranks.is_main:
                    notes.append(f"{problem}; renamed {set_aside(damaged).name}; training goes on from {newest.name}")
        return notes

    def _save_final(self) -> Path:
        self._require_finite_weights(self.total)
        self._require_trained()
        final = self.setup.folder / FINAL
        weights = self.step.forward.whole_weights(self.setup.result_needs_frozen)
        with self.ranks.agreed():
            if self.ranks.is_main:
                with atomic_folder(final) as folder:
                    write_result(self.setup, folder, weights)
                    provenance = {**stage_state(self.setup, self.ranks, self.total), FOLDER: str(Path.cwd())}
                    (folder / PROVENANCE).write_text(json.dumps(provenance, indent=1), encoding="utf-8")
        return final
