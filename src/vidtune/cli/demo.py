"""``vidtune demo``: from rendered mp4 files to a trained, scored model and a page to look at.

Every step continues where it was stopped, or does nothing if it is finished: the command can be stopped and repeated.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

TRAINING_PROCESSES = 2


def demo(
    out: Annotated[Path, typer.Option(help="Folder for videos, weights, scores and the page.")] = Path("demo"),
    recipe: Annotated[
        str | None, typer.Option(help="Another recipe that names a world, into a folder of its name.")
    ] = None,
) -> None:
    """Render a world of mp4 files, train a tiny model on it, score it against a blind run, and write a page."""
    # Small matrices gain nothing from a second thread, but from a second process. Must be set before torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    from vidtune.evaluation.checkpoint import open_checkpoint
    from vidtune.evaluation.predict import Variant, by_rules, predict_benchmark
    from vidtune.evaluation.report.page import build_report
    from vidtune.evaluation.scores.scoring import score_run
    from vidtune.machine.devices import pick_device
    from vidtune.machine.progress import ProgressDisplay
    from vidtune.recipe.shipped import DEMO_RECIPE
    from vidtune.recipe.types import load_recipe
    from vidtune.world import WORLDS, render_world, world_of_recipe

    name, results = recipe or DEMO_RECIPE, out if recipe in (None, DEMO_RECIPE) else out / str(recipe)
    kind = world_of_recipe(name)
    typer.echo(f"1/4  rendering the world of {kind} into {out / WORLDS[kind].folder}")
    world = out / WORLDS[kind].folder
    with ProgressDisplay(transient=True) as progress:
        render_world(kind, world, progress)
    variables = {"DATA_ROOT": str(world)}
    chosen = load_recipe(name, variables=variables)

    typer.echo(f"2/4  training {name}: {', then '.join(stage.name for stage in chosen.stages)}")
    final = _train(name, variables, results / "run")

    ablations = ", and with streams switched off" if any(entry.without for entry in chosen.benchmarks) else ""
    ablations += ", and by other rules" if any(entry.rules for entry in chosen.benchmarks) else ""
    typer.echo(f"3/4  asking about videos it has never seen, and again with black frames{ablations}")
    loaded = open_checkpoint(final, pick_device(None))
    runs = []
    for entry in chosen.benchmarks:
        # Stored features cannot be made black.
        whole = Variant(features=entry.features, overrides={"generation": chosen.generation}, limit=entry.limit)
        others = [] if entry.features else [replace(whole, blind=True)]
        others += [replace(whole, without=off) for off in entry.without]
        for variant in (whole, *others, *(by_rules(whole, rules) for rules in entry.rules)):
            data, out_of_runs = Path(entry.data or world), results / "evaluation"
            summary = predict_benchmark(loaded, entry.name, data, out_of_runs, variant)
            runs.append(summary.run_dir)
            typer.echo(score_run(summary.run_dir))

    page = build_report(runs, results / "report.html", title="vidtune demo")
    typer.echo(f"4/4  report: {page.resolve()}")
    _say_what_next(world, name, final, runs[0])


def _train(name: str, variables: dict[str, str], out: Path) -> Path:
    """Train with two processes if there are two cores and no GPU."""
    from vidtune.machine.cores import available_cores
    from vidtune.machine.devices import pick_device
    from vidtune.recipe.types import load_recipe
    from vidtune.training.run import train
    from vidtune.training.setup.run_folder import FINAL

    recipe = load_recipe(name, variables=variables)
    final = out / recipe.stages[-1].name / FINAL
    device = pick_device(None)
    if final.is_dir() or device != "cpu" or available_cores() < TRAINING_PROCESSES:
        return train(recipe, out=out, device=device).final
    return train(recipe, out=out, processes=TRAINING_PROCESSES, device=device).final


def _say_what_next(world: Path, recipe: str, final: Path, run: Path) -> None:
    from vidtune.evaluation.runs.folder import RunFolder

    opened = RunFolder(run)
    answered = (prediction for prediction in opened.predictions() if prediction.file is not None)
    asked = next((prediction for prediction in answered if "\n" not in prediction.question), None)
    command = sys.argv[0] if Path(sys.argv[0]).name == "vidtune" else "vidtune"
    typer.echo("\nWhat to try next:")
    if asked is not None:
        video = Path(opened.info.data.folder) / str(asked.file)
        typer.echo(f'  {command} answer {final} --video {video} --question "{asked.question}"')
    typer.echo(f"  DATA_ROOT={world} {command} data check {recipe} --decode")
    typer.echo(f"  {command} recipes list")
    typer.echo(f"  {Path(command).with_name('tensorboard')} --logdir {final.parents[1]}")
