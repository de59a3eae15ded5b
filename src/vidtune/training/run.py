"""Training a recipe: all its stages in order, into one folder, from wherever an earlier run of it stopped."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vidtune.machine.cores import media_workers, thread_budget
from vidtune.machine.records import read_records
from vidtune.recipe.files import load_recipe
from vidtune.recipe.mistakes import of_recipe
from vidtune.recipe.types import Recipe
from vidtune.training.log import LOG
from vidtune.training.loop import StageLoop
from vidtune.training.ranks.group import Ranks, joined
from vidtune.training.ranks.launched import launch_training
from vidtune.training.setup.checks import check_stages
from vidtune.training.setup.run_folder import FINAL, claimed, results
from vidtune.training.setup.stage import set_up
from vidtune.training.signals import NOTHING_SAVED, StopRequest, TrainingInterrupted


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Args:
        folder: folder of the run.
        stages: names of its stages, in the order of training.
    """

    folder: Path
    stages: tuple[str, ...]

    @property
    def final(self) -> Path:
        """Path of the final checkpoint: the result of the last stage. Every command and `vidtune.load` accept it."""
        return self.folder / self.stages[-1] / FINAL

    @property
    def log(self) -> list[dict[str, Any]]:
        """Log lines of all stages in order, each with the name of its stage as ``stage``.

        Their keys are described in :mod:`vidtune.training.log`.
        """
        return [{"stage": stage, **line} for stage in self.stages for line in read_records(self.folder / stage / LOG)]


def train(
    recipe: Recipe | str | Path,
    overrides: Sequence[str] = (),
    *,
    out: str | Path,
    processes: int = 1,
    device: str | None = None,
    progress: bool = True,
    ranks: Ranks | None = None,
) -> Run:
    """Train all stages of a recipe. The same call continues a run that was stopped or killed.

    Under ``torchrun``, ``accelerate launch`` or ``srun`` the processes of the launcher train together.

    Args:
        recipe: a recipe, its file, or the name of a shipped one.
        overrides: changes to the recipe as ``key=value``, for a file or a name.
        out: folder of the run. All processes must see it.
        processes: number of processes to start on this machine, such as one per GPU.
        device: device of torch, such as "cuda"; None takes a GPU if there is one.
        progress: whether to show progress on standard error.
        ranks: the processes that train together, if they were joined before.

    Returns: the run, with ``final``, the path of the final checkpoint.
    Raises:
        UserError: a mistake in the recipe, the data or the folder; a loss that is not finite.
        TrainingInterrupted: SIGTERM or SIGINT arrived; the finished steps are saved.
        LaunchFailed: with ``processes``: one of them failed or was stopped, and said why on standard error.
        RankFailed: another process of the launcher failed, and shows why.
    """
    folder = Path(out)
    with ExitStack() as stack:
        if processes == 1:
            ranks = ranks or stack.enter_context(joined(device))
            with ranks.agreed():
                loaded = _loaded(recipe, overrides)
            stack.enter_context(of_recipe(recipe))
            train_stages(loaded, folder, progress=progress, ranks=ranks)
        else:
            loaded = _loaded(recipe, overrides)
            stack.enter_context(of_recipe(recipe))
            launch_training(loaded, folder, processes, device, progress)
    return Run(folder, tuple(stage.name for stage in loaded.stages))


def train_stages(
    recipe: Recipe,
    out: Path,
    *,
    stop_after: int | None = None,
    progress: bool = True,
    device: str | None = None,
    ranks: Ranks | None = None,
) -> Path:
    """Train all stages of a recipe in this process, which may be one of several ranks.

    Stages and steps that ``out`` already contains are not repeated. On the same machine with the same number of
    processes and threads, the weights do not depend on how often the run was stopped or killed. With another number,
    they are equal up to float rounding.

    Args:
        recipe: the recipe.
        out: folder of the run. ``<stage>/final/`` is the result of a stage, ``<stage>/log.jsonl`` its log, and
            ``<stage>/checkpoint-<step>/`` is where a stopped run continues. All processes must see it.
        stop_after: stop after this many optimizer steps, as a signal would.
        progress: whether to show progress on standard error.
        device: device of torch; None takes a GPU if there is one.
        ranks: the processes that train together; None joins those of the launcher, if there are any.

    Returns: the ``final`` folder of the last stage.
    Raises:
        UserError: a mistake in recipe, data or folder; a loss that is not finite. On all ranks.
        TrainingInterrupted: SIGTERM or SIGINT on any rank, or ``stop_after``; finished steps are saved. On all ranks.
        RankFailed: another rank failed, and shows why.
    """
    with ExitStack() as stack:
        if ranks is None:
            ranks = stack.enter_context(joined(device))
        stack.enter_context(_claimed(out, recipe, ranks))
        stop = stack.enter_context(StopRequest(stop_after))
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        for number, stage in enumerate(recipe.stages):
            if ranks.gather((out / stage.name / FINAL).is_dir())[0]:
                continue
            reason = next(filter(None, ranks.gather(stop.reason)), None)
            if reason is not None:
                again = "run the same command again to go on" if any(results(out)) else NOTHING_SAVED
                raise TrainingInterrupted(f"stopped by {reason} before stage {stage.name!r}; {again}")
            workers = 0 if ranks.device.type == "cpu" else media_workers(stage.workers, ranks.local_world)
            torch.set_num_threads(thread_budget(ranks.local_world, workers))
            StageLoop(set_up(recipe, number, out, ranks, progress), ranks, stop, progress).run()
    return out / recipe.stages[-1].name / FINAL


def _loaded(recipe: Recipe | str | Path, overrides: Sequence[str]) -> Recipe:
    return recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)


@contextmanager
def _claimed(out: Path, recipe: Recipe, ranks: Ranks) -> Iterator[None]:
    """Context manager that holds the folder of the run: rank 0 claims it for all ranks."""
    with ExitStack() as stack:
        with ranks.agreed():
            check_stages(recipe)
            if ranks.is_main:
                stack.enter_context(claimed(out, recipe))
        yield
