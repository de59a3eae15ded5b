"""``vidtune data stats``: what training data hold: lengths, sizes, duplicates, overlap with a test set."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vidtune.cli.options.recipe import Overrides, RecipeName
from vidtune.cli.terminal.shown_text import show_line


def stats(
    recipe: RecipeName,
    overrides: Overrides = None,
    stage: Annotated[str | None, typer.Option(help="This stage only.")] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Look for the media of this benchmark, or of a test set of your own (mine.jsonl); repeatable."
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the test set of --against.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Count the data of a recipe: tokens, seconds and sizes, files and conversations that are there twice, and files
    that a test set has too. Reads headers and pieces of files; decodes nothing.

    The exit code is 2 if a medium of a test set of --against is among the training data.
    """
    from vidtune.errors import UserError
    from vidtune.evaluation.benchmarks.own.finding import benchmark_named
    from vidtune.evaluation.evaluate import data_folder
    from vidtune.machine.progress import ProgressDisplay
    from vidtune.recipe.files import load_recipe
    from vidtune.recipe.mistakes import of_recipe
    from vidtune.training.inspection.data_stats import recipe_stats

    tests = {}
    for name in against or ():
        questions = benchmark_named(name).load(data_folder(name, data)).with_similar_files()
        found = {one.video: questions.folder / one.file for one in questions.questions if one.file is not None}
        tests[name] = {video: str(path) for video, path in found.items()}
    loaded = load_recipe(recipe, overrides or ())
    with of_recipe(recipe), ProgressDisplay(transient=True) as display:
        found_stats = list(recipe_stats(loaded, tests, only=stage, progress=display))
    if as_json:
        typer.echo(json.dumps([one.record() for one in found_stats], ensure_ascii=False, indent=1))
    else:
        for one in found_stats:
            for line in one.lines():
                show_line(line)
    if shared := [f"{one.stage}: {name}" for one in found_stats for name, files in one.shared.items() if files]:
        raise UserError(f"media of a test set are among the training data ({', '.join(shared)}); leave them out")
