"""Training a recipe: its stages in order, into one folder, from wherever an earlier run of it stopped."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from vidtune.machine.cores import media_workers, thread_budget
from vidtune.recipe.types import Recipe
from vidtune.training.loop import StageLoop
from vidtune.training.ranks.group import Ranks, joined
from vidtune.training.setup.run_folder import FINAL, claimed
from vidtune.training.setup.stage import check_stages, set_up
from vidtune.training.signals import StopRequest, TrainingInterrupted


def train(
    recipe: Recipe,
    out: Path,
    *,
    stop_after: int | None = None,
    progress: bool = True,
    device: str | None = None,
    ranks: Ranks | None = None,
) -> Path:
    """Train all stages of a recipe; stages and steps that ``out`` holds already are not repeated.

    On the same machine with the same number of processes and threads, the weights do not depend on how often the run
    was stopped or killed; with another number, they are equal to float rounding.

    Args:
        recipe: what to train.
        out: ``<stage>/final/`` is each stage's result, ``<stage>/log.jsonl`` its log, ``<stage>/checkpoint-<step>/``
            where a stopped run goes on. All processes must see it.
        stop_after: stop after this many optimizer steps, as a signal would.
        progress: show progress on stderr.
        device: of torch; None takes a GPU when there is one.
        ranks: the processes that train together; None joins those of the launcher, if there are any.

    Returns: the last stage's ``final`` folder.
    Raises:
        UserError: a mistake in recipe, data or folder; a loss that is not finite. On all ranks.
        TrainingInterrupted: SIGTERM or SIGINT on any rank, or ``stop_after``; what was done is saved. On all ranks.
        RankFailed: another rank failed, and shows why.
    """
    with ExitStack() as stack:
        if ranks is None:
            ranks = stack.enter_context(joined(device))
        stack.enter_context(held(out, recipe, ranks))
        stop = stack.enter_context(StopRequest(stop_after))
        for number, stage in enumerate(recipe.stages):
            if ranks.gather((out / stage.name / FINAL).is_dir())[0]:
                continue
            reason = next(filter(None, ranks.gather(stop.reason)), None)
            if reason is not None:
                raise TrainingInterrupted(
                    f"stopped by {reason} before stage {stage.name!r}; run the same command again to go on"
                )
            workers = 0 if ranks.device.type == "cpu" else media_workers(stage.workers, ranks.local_world)
            torch.set_num_threads(thread_budget(ranks.local_world, workers))
            StageLoop(set_up(recipe, number, out, ranks), ranks, stop, progress).run()
    return out / recipe.stages[-1].name / FINAL


@contextmanager
def held(out: Path, recipe: Recipe, ranks: Ranks) -> Iterator[None]:
    """Hold the output folder: rank 0 claims it for all ranks."""
    with ExitStack() as stack:
        with ranks.agreed():
            check_stages(recipe)
            if ranks.is_main:
                stack.enter_context(claimed(out, recipe))
        yield
