"""``vidtune demo``: from rendered mp4 files to a trained, scored model and a page to look at.

Every step continues where it was stopped, or does nothing if it is finished: the command can be stopped and repeated.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vidtune.evaluation.checkpoint import LoadedCheckpoint
    from vidtune.recipe.types import BenchmarkEntry

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
    from vidtune.evaluation.report.page import build_report
    from vidtune.machine.devices import pick_device
    from vidtune.machine.progress import ProgressDisplay
    from vidtune.recipe.files import load_recipe
    from vidtune.recipe.shipped import DEMO_RECIPE
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

    typer.echo(
        "3/4  asking about videos it has never seen, and again with less: black frames, and what the recipe names"
    )
    loaded = open_checkpoint(final, pick_device(None))
    runs = [run for entry in chosen.benchmarks for run in _ask(loaded, entry, chosen.generation, world, results)]

    page = build_report(runs, results / "report.html", title="vidtune demo")
    typer.echo(f"4/4  report: {page.resolve()}")
    _say_what_next(world, name, final, runs[0])


def _ask(
    loaded: "LoadedCheckpoint", entry: "BenchmarkEntry", generation: Mapping[str, Any], world: Path, results: Path
) -> list[Path]:
    """Ask a benchmark with all and with less, print the scores, and draw examples. Returns the runs."""
    from vidtune.evaluation.judges.base import DEFAULT_JUDGE
    from vidtune.evaluation.predict import Variant, by_rules, predict_benchmark
    from vidtune.evaluation.report.examples import draw_examples
    from vidtune.evaluation.scores.score_lines import says_yes, table_lines
    from vidtune.evaluation.scores.scoring import score_run

    whole = Variant(features=entry.features, overrides={"generation": generation}, limit=entry.limit)
    variants = {"seeing": whole}
    if not entry.features:  # stored features cannot be made black
        variants["blind"] = replace(whole, blind=True)
    variants |= {f"without {', '.join(off)}": replace(whole, without=off) for off in entry.without}
    variants |= {changed.folder: changed for changed in (by_rules(whole, rules) for rules in entry.rules)}
    runs, scores = [], {}
    for name, variant in variants.items():
        data = Path(entry.data or world)
        runs.append(predict_benchmark(loaded, entry.name, data, results / "evaluation", variant).run_dir)
        scores[name] = score_run(runs[-1])
        typer.echo(scores[name])
    if says_yes(scores["seeing"]):
        typer.echo(f"\n{entry.name}, share of right answers:")
        typer.echo("\n".join(table_lines(scores)))
        beside = ("blind", runs[1]) if "blind" in variants else None
        drawn = draw_examples(runs[0], results / f"{entry.name}.png", judge=DEFAULT_JUDGE, beside=beside)
        typer.echo(f"examples: {drawn}" if drawn else "no examples: its media cannot be shown")
    return runs


def _train(name: str, variables: dict[str, str], out: Path) -> Path:
    """Train with two processes if there are two cores and no GPU."""
    from vidtune.machine.cores import available_cores
    from vidtune.machine.devices import pick_device
    from vidtune.recipe.files import load_recipe
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
