"""Training a recipe: its stages in order, into one folder, from wherever an earlier run of it stopped."""

import os
from pathlib import Path

import torch

from vidtune.cores import available_cores
from vidtune.recipe import Recipe
from vidtune.training.folder import FINAL, claimed
from vidtune.training.loop import StageLoop
from vidtune.training.signals import StopRequest, TrainingInterrupted
from vidtune.training.stage import check_stages, set_up


def train(
    recipe: Recipe, out: Path, *, stop_after: int | None = None, progress: bool = True, device: str | None = None
) -> Path:
    """Train all stages of a recipe; stages and steps that ``out`` holds already are not repeated.

    On the same machine with the same number of threads, the weights do not depend on how often the run was stopped or
    killed.

    Args:
        recipe: what to train.
        out: ``<stage>/final/`` is each stage's result, ``<stage>/log.jsonl`` its log, ``<stage>/checkpoint-<step>/``
            where a stopped run goes on.
        stop_after: stop after this many optimizer steps, as a signal would.
        progress: show progress on stderr.
        device: of torch; None takes a GPU when there is one.

    Returns: the last stage's ``final`` folder.
    Raises:
        UserError: a mistake in recipe, data or folder; a loss that is not finite.
        TrainingInterrupted: SIGTERM, SIGINT or ``stop_after``; what was done is saved.
    """
    check_stages(recipe)
    use_available_cores()
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with claimed(out, recipe), StopRequest(stop_after) as stop:
        for number, stage in enumerate(recipe.stages):
            if (out / stage.name / FINAL).is_dir():
                continue
            if stop.requested:
                raise TrainingInterrupted(
                    f"stopped by {stop.reason} before stage {stage.name!r}; run the same command again to go on"
                )
            StageLoop(set_up(recipe, number, out), target, stop, progress).run()
    return out / recipe.stages[-1].name / FINAL


def use_available_cores() -> None:
    """One compute thread per core that this process may use, unless OMP_NUM_THREADS says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(available_cores())
