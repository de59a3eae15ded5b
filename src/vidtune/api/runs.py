"""Public functions that train a recipe and evaluate a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidtune.api.arguments import checked_path, names_arguments, texts_of
from vidtune.api.model import Model

if TYPE_CHECKING:
    from vidtune.evaluation.judges.base import Judge
    from vidtune.evaluation.models.base import EvaluatedModel
    from vidtune.evaluation.scores.score import Score
    from vidtune.recipe.types import Recipe
    from vidtune.training.run import Run


@names_arguments
def train(
    recipe: "Recipe | str | Path",
    *,
    out: str | Path,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    processes: int = 1,
    device: str | None = None,
    progress: bool = True,
) -> "Run":
    """Train all stages of a recipe into a folder; a run that was stopped goes on where it stopped.

    Args:
        recipe: a :class:`vidtune.Recipe`, a YAML file, or the name of a shipped recipe.
        out: folder of the run.
        overrides: changes such as ``["seed=1"]`` or ``{"stages.finetune.epochs": 0.5}``.
        processes: processes of this machine that train together, such as one per GPU.
        device: of torch; None: a GPU when there is one.
        progress: show progress on standard error.

    Returns: the run: ``.final`` is the folder of the last stage's checkpoint, ``.log`` its log records.
    Raises:
        UserError: a mistake in the recipe, the data or the folder; a loss that is not finite.

    Example:
        >>> run = vidtune.train("tiny.yaml", out="runs/tiny", progress=False)
        >>> run.final.name, type(vidtune.load(run.final)).__name__
        ('final', 'Model')
    """
    from vidtune.training.run import train as train_recipe

    checked_path(out, "out")
    changes: Sequence[str]
    if isinstance(overrides, Mapping):
        changes = [f"{key}={value}" for key, value in overrides.items()]
    else:
        changes = texts_of(overrides, "overrides")
    return train_recipe(recipe, changes, out=out, processes=processes, device=device, progress=progress)


@names_arguments
def evaluate(
    model: "Model | EvaluatedModel | str | Path",
    benchmark: str,
    *,
    data: str | Path,
    out: str | Path,
    judge: "Judge | str | None" = None,
    blind: bool = False,
    without: Sequence[str] = (),
    features: Mapping[str, str | Path] | None = None,
    protocol: Mapping[str, Any] | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    device: str | None = None,
    dtype: str | None = None,
    other_versions: bool = False,
    progress: bool = True,
) -> "Score":
    """Ask a model every question of a benchmark, score the answers, and store all of it.

    Calling it again with the same arguments asks only what was not answered before.

    Args:
        model: a loaded model; a checkpoint, or folder or hub id of any image-text-to-text model of transformers; or an
            :class:`vidtune.Endpoint`.
        benchmark: name of the benchmark; ``vidtune benchmarks`` lists them.
        data: folder of the test set, or one above it.
        out: folder of results; the run goes to ``out/<benchmark>``, ``out/<benchmark>-blind`` or
            ``out/<benchmark>-without-<stream>``.
        judge: a judge, or the name of one without settings; None: the offline rules. Benchmarks that metrics score
            need none.
        blind: black frames and silence: the score of a model that neither sees nor hears.
        without: streams that are switched off.
        features: stream -> folder of stored features that are read instead of the videos.
        protocol: rules to change, such as ``{"generation": {"max_new_tokens": 64}}``.
        limit: number of questions from the start of the test set; None: all.
        retry_failed: ask questions again that failed in an earlier call.
        device: of torch, for a checkpoint; None: a GPU when there is one.
        dtype: precision in which a checkpoint is loaded; None: its own.
        other_versions: go on with a run that other versions of the software began; the score then says so.
        progress: show progress on standard error.

    Returns: the score: ``.accuracy``, ``.interval`` and every other named value; a notebook shows it as a table.
    Raises:
        UserError: no such benchmark, a bad test set, a folder that holds another run, or no answer that can be scored
            (the error's ``score`` is what is stored then).

    Example:
        >>> score = vidtune.evaluate("tiny-model", "world_qa", data="world", out="eval", progress=False)
        >>> 0 <= score.accuracy <= 1
        True
    """
    from vidtune.evaluation.evaluate import evaluate as evaluate_model
    from vidtune.evaluation.judges.base import DEFAULT_JUDGE
    from vidtune.machine.devices import pick_device

    for name, path in (("data", data), ("out", out)):
        checked_path(path, name)
    return evaluate_model(
        model._checkpoint() if isinstance(model, Model) else model,
        benchmark,
        data=data,
        out=out,
        judge=judge or DEFAULT_JUDGE,
        blind=blind,
        without=texts_of(without, "without"),
        features=features,
        protocol=protocol,
        limit=limit,
        retry_failed=retry_failed,
        device=pick_device(device),
        dtype=dtype,
        other_versions=other_versions,
        progress=progress,
    )
