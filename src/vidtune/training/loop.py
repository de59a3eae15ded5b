"""The training loop of one stage.

An optimizer step takes ``global_batch_size`` samples, in as many packs as ``max_tokens_per_batch`` makes of them.
Gradients of the plain sum are accumulated and divided once by the number of supervised tokens that were really seen,
so neither packing nor a file that failed changes what is minimised. The run is a function of recipe and data alone:
resumed, it gives the same weights.
"""

import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

import vidtune
from vidtune.errors import UserError
from vidtune.media.pool import MediaPool
from vidtune.recipe import dump_recipe, recipe_fingerprint
from vidtune.training.folder import FINAL, RECIPE
from vidtune.training.loading import Ahead, LoadedPack, PackLoader
from vidtune.training.log import TrainingLog, peak_memory_gib
from vidtune.training.parameters import parameter_groups
from vidtune.training.progress import StageProgress
from vidtune.training.saving import (
    atomic_folder,
    checkpoints,
    load_checkpoint,
    read_state,
    save_checkpoint,
    write_atomic,
)
from vidtune.training.schedule import learning_rate_factor, warmup_steps
from vidtune.training.signals import StopRequest, TrainingInterrupted
from vidtune.training.stage import StageSetup
from vidtune.training.step import (
    TrainingStep,
    clipping_factor,
    fill_missing_gradients,
    gradient_norms,
    random_seed,
    scale_gradients,
)


@dataclass
class Window:
    """What happened since the last log line."""

    started: float
    waited: float
    loss: float = 0.0
    samples: int = 0
    tokens: int = 0
    supervised: int = 0


@dataclass
class StepResult:
    """Sums over the packs of a step; ``losses`` has one entry per pack."""

    losses: list[Tensor] = field(default_factory=list)
    ids: list[list[str]] = field(default_factory=list)
    tokens: int = 0
    supervised: int = 0


class StageLoop:
    """Runs a stage from its start, or from its newest checkpoint, to ``final/``.

    Args:
        setup: the stage; its model is moved to ``device``.
        device: where to compute.
        stop: asks the loop to save and leave after the current step.
        progress: whether to show progress on the console.
    """

    def __init__(self, setup: StageSetup, device: torch.device, stop: StopRequest, progress: bool) -> None:
        self.setup, self.stage, self.device, self.stop = setup, setup.stage, device, stop
        self.plan, self.exclusions = setup.plan, setup.exclusions
        self.net = TrainingStep(setup.model.to(device), self.stage.precision)
        groups = parameter_groups(setup.model, setup.trained, self.stage.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, betas=self.stage.betas, eps=1e-8, fused=True)
        self.by_component: dict[str, list[nn.Parameter]] = {name: [] for name in setup.trained}
        for group in groups:
            self.by_component[group["component"]] += group["params"]
        self.parameters = [parameter for part in self.by_component.values() for parameter in part]
        self.total = self.plan.total_steps
        self.warmup = warmup_steps(self.total, self.stage.warmup)
        self.first_step = self._resume()
        self.console = StageProgress(self.stage.name, self.total, self.first_step, progress)

    def run(self) -> Path:
        """Train to the end and write ``final/``.

        Raises:
            TrainingInterrupted: asked to stop; what was done is saved.
            UserError: the loss is not finite, too many media failed, a sample does not fit into a pack.
        """
        stage, setup = self.stage, self.setup
        preprocessing = {name: stream.preprocessing for name, stream in setup.processor.streams.items()}
        with MediaPool(stage.workers, stage.media_timeout) as pool:
            loader = PackLoader(
                self.plan,
                setup.example,
                preprocessing,
                pool,
                stage.max_tokens_per_batch,
                self.exclusions.failed_files(),
                self.first_step,
            )
            self.log = TrainingLog(setup.folder, self.first_step)
            try:
                with self.console, Ahead(iter(loader)) as packs:
                    self._train(packs)
            finally:
                self.log.close()
        return self._save_final()

    def _train(self, packs: Ahead) -> None:
        window = Window(time.perf_counter(), packs.seconds_waited)
        for step in range(self.first_step, self.total):
            rates = self._set_learning_rates(step)
            result = self._accumulate(step, packs)
            loss, norms = self._update(step, result)
            window.loss += loss
            window.samples += sum(len(ids) for ids in result.ids)
            window.tokens += result.tokens
            window.supervised += result.supervised
            done = step + 1
            self.console.step(done)
            if done % self.stage.log_every == 0 or done == self.total:
                self._write_log(done, window, packs.seconds_waited, rates, norms)
                window = Window(time.perf_counter(), packs.seconds_waited)
            if self.stop.step_done() and done < self.total:
                checkpoint = self._save(done)
                raise TrainingInterrupted(
                    f"stopped by {self.stop.reason} after step {done} of {self.total} of stage {self.stage.name!r}, "
                    f"saved in {checkpoint}; run the same command again to go on"
                )
            if done % self.stage.save_every == 0 and done < self.total:
                self._save(done)

    def _set_learning_rates(self, step: int) -> dict[str, float]:
        factor = learning_rate_factor(self.stage.schedule, step, self.total, self.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        return {name: peak * factor for name, peak in self.setup.trained.items()}

    def _accumulate(self, step: int, packs: Ahead) -> StepResult:
        """Add up the gradients of all packs of a step."""
        result = StepResult()
        pack: LoadedPack | None = None
        while pack is None or not pack.is_last:
            pack = packs.next()
            for excluded in self.exclusions.add(pack.excluded):
                where = f"{excluded.path}: " if excluded.path else ""
                self.console.note(f"sample {excluded.id!r} left out: {where}{excluded.reason}")
            if pack.batch is None:
                continue
            torch.manual_seed(random_seed(self.setup.recipe.seed, step, pack.number))
            loss = self.net(pack.batch.to(self.device))
            loss.backward()
            result.losses.append(loss.detach())
            result.ids.append(pack.batch.ids)
            result.tokens += pack.batch.num_tokens
            result.supervised += pack.num_supervised
        self.exclusions.check_threshold(step, self.plan.samples_until(step + 1))
        return result

    def _update(self, step: int, result: StepResult) -> tuple[float, dict[str, float]]:
        """One optimizer step. Returns the summed loss and the gradient norms (before clipping) by component and in
        total.
        """
        fill_missing_gradients(self.parameters)
        count = max(result.supervised, 1)
        norms = gradient_norms(self.by_component) / count
        norms = torch.cat([norms, norms.norm().reshape(1)])
        losses = torch.stack(result.losses) if result.losses else norms.new_zeros(1)
        numbers = torch.cat([norms, losses.to(norms.dtype)])
        if not bool(torch.isfinite(numbers).all()):
            self._refuse_nonfinite(step, result, norms)
        scale_gradients(self.parameters, clipping_factor(norms[-1], self.stage.max_grad_norm) / count)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        *each, total = norms.tolist()
        return float(losses.sum()), {**dict(zip(self.by_component, each, strict=True)), "total": total}

    def _refuse_nonfinite(self, step: int, result: StepResult, norms: Tensor) -> None:
        path = self.setup.folder / f"nonfinite-step-{step + 1}.json"
        packs = [{"loss": str(float(loss)), "ids": ids} for loss, ids in zip(result.losses, result.ids, strict=True)]
        write_atomic(
            path,
            json.dumps(
                {"step": step + 1, "gradient_norms": [str(n) for n in norms.tolist()], "packs": packs}, indent=1
            ),
        )
        raise UserError(
            f"stage {self.stage.name!r}: the loss or its gradient is not finite in step {step + 1}; {path} names the "
            "samples of that step; lower the learning rate, set max_grad_norm, or look at these samples"
        )

    def _write_log(
        self, done: int, window: Window, waited: float, rates: dict[str, float], norms: dict[str, float]
    ) -> None:
        seconds = time.perf_counter() - window.started
        line = {
            "step": done,
            "epoch": round(done / self.plan.steps_per_epoch, 4),
            "loss": window.loss / max(window.supervised, 1),
            "learning_rate": rates,
            "gradient_norm": norms,
            "samples": window.samples,
            "tokens": window.tokens,
            "supervised_tokens": window.supervised,
            "tokens_per_second": window.tokens / seconds,
            "data_wait": (waited - window.waited) / seconds,
            "memory_gib": peak_memory_gib(self.device),
            "seconds": seconds,
        }
        self.log.write(line)
        self.console.numbers(line)

    def _state(self, done: int) -> dict[str, Any]:
        return {
            "stage": self.stage.name,
            "step": done,
            "total_steps": self.total,
            "epoch": self.plan.epoch(done),
            "samples": self.plan.samples_until(done),
            "recipe": recipe_fingerprint(self.setup.recipe),
            "data": self.plan.table.fingerprint,
            "excluded": self.exclusions.before(done),
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }

    def _save(self, done: int) -> Path:
        return save_checkpoint(self.setup.folder, done, self.net, self.optimizer, self._state(done), self.stage.keep)

    def _resume(self) -> int:
        """Load the newest checkpoint, if there is one. Returns the number of steps done."""
        found = checkpoints(self.setup.folder)
        if not found:
            self.setup.check_lengths()
            return 0
        state = read_state(found[-1])
        if state["data"] != self.plan.table.fingerprint:
            raise UserError(
                f"{found[-1]}: the training data have changed since (annotations of stage {self.stage.name!r}, or the "
                "samples excluded from them); bring them back, or train into another folder"
            )
        load_checkpoint(found[-1], self.net, self.optimizer)
        self.exclusions.merge(state["excluded"])
        return state["step"]

    def _save_final(self) -> Path:
        final = self.setup.folder / FINAL
        with atomic_folder(final) as folder:
            with without_progress_bar():
                self.setup.model.save_pretrained(folder)
            self.setup.processor.save_pretrained(folder)
            (folder / RECIPE).write_text(dump_recipe(self.setup.recipe), encoding="utf-8")
            provenance = self._state(self.total)
            (folder / "provenance.json").write_text(json.dumps(provenance, indent=1), encoding="utf-8")
        return final


@contextmanager
def without_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing a bar of its own."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    yield
    if shown:
        transformers_logging.enable_progress_bar()


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {
        "vidtune": vidtune.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
