"""``vidtune train``: run the stages of a recipe."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as stages.finetune.epochs=0.5 or seed=1.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; one of the same recipe goes on, another is refused.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Of torch; default: a GPU when there is one.")] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes of this machine that train together, such as one per GPU.")
    ] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan of every stage (steps, packs, tokens, memory) and leave.")
    ] = False,
    planned_ranks: Annotated[
        int, typer.Option("--ranks", min=1, help="For --dry-run: processes that would train together.")
    ] = 1,
    tokens_per_second: Annotated[
        float | None, typer.Option(min=0, help="For --dry-run: throughput of all of them, for the time it would take.")
    ] = None,
) -> None:
    """Train all stages of RECIPE in order; the same command resumes."""
    if dry_run:
        print_plan(recipe, overrides or (), out, max(planned_ranks, processes), tokens_per_second)
        return
    if out is None:
        raise typer.BadParameter("name the folder of the run", param_hint="--out")
    if processes > 1:
        from vidtune.training.ranks.launch import launch

        command = [sys.executable, "-m", "vidtune", "train", recipe, "--out", str(out)]
        options = ["--device", device] if device else []
        raise SystemExit(launch([*command, *options, "--", *(overrides or ())], processes))
    # Remarks of torch's C++ part that are meant for its developers, once per process.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from vidtune.recipe.types import load_recipe
    from vidtune.training.ranks.group import joined, speaking_once
    from vidtune.training.ranks.launch import follow_launcher
    from vidtune.training.run import train as run_stages

    follow_launcher()
    with joined(device) as ranks, speaking_once(ranks):
        with ranks.agreed():
            loaded = load_recipe(recipe, overrides or ())
        final = run_stages(loaded, out, ranks=ranks)
        if ranks.is_main:
            typer.echo(f"trained: {final}")


def print_plan(
    recipe: str, overrides: Sequence[str], out: Path | None, ranks: int, tokens_per_second: float | None
) -> None:
    """Plan every stage and print what it will be; with a folder, what was counted is kept there for the training."""
    import tempfile
    from contextlib import nullcontext

    from vidtune.machine.progress import ProgressDisplay
    from vidtune.recipe.types import load_recipe
    from vidtune.training.inspection.dry_run import describe, forecast

    loaded = load_recipe(recipe, overrides)
    with (
        tempfile.TemporaryDirectory() if out is None else nullcontext(out) as folder,
        ProgressDisplay(transient=True) as progress,
    ):
        for planned in forecast(loaded, Path(folder), ranks=ranks, progress=progress):
            typer.echo(describe(planned, tokens_per_second))
