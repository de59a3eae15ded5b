"""``vidtune evaluate``: ask a checkpoint the questions of a benchmark, then judge and score the answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidtune.cli.options.judging import (
    CACHE,
    NO_JUDGE,
    JudgeConcurrency,
    JudgeKey,
    JudgeMaxCalls,
    JudgeMaxCost,
    JudgeName,
    JudgePrices,
    JudgeUrl,
    build_judge,
    judge_and_score,
)
from vidtune.cli.options.loading import ModelBase, Towers, assignments

if TYPE_CHECKING:
    from vidtune.recipe.types import BenchmarkEntry


def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="Folder or hub id, in any format that `vidtune systems` lists.")],
    out: Annotated[Path, typer.Option(help="Folder of results; the run goes to OUT/BENCHMARK and resumes there.")],
    benchmark: Annotated[
        list[str] | None, typer.Option(help="May be repeated; default: those of the recipe beside the checkpoint.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the test set, or one that holds several.")] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Black frames and silence: what the model scores without seeing or hearing.")
    ] = False,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="STREAM", help="Switch a stream off, such as audio; may be repeated, for one run."),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(metavar="STREAM=DIR", help="Read stored features instead of videos; one option per stream."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask only this many questions.")] = None,
    protocol: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Change a rule, as generation.max_new_tokens=64.")
    ] = None,
    name: JudgeName = "rules",
    judge_url: JudgeUrl = None,
    judge_key: JudgeKey = None,
    judge_prices: JudgePrices = None,
    judge_max_cost: JudgeMaxCost = None,
    judge_max_calls: JudgeMaxCalls = None,
    judge_concurrency: JudgeConcurrency = 8,
    model_base: ModelBase = None,
    tower: Towers = None,
    tokenizer: Annotated[str | None, typer.Option(help="When the checkpoint's folder holds none.")] = None,
    device: Annotated[str | None, typer.Option(help="Of torch; default: a GPU when there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: the checkpoint's.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode videos.")] = 2,
    media_timeout: Annotated[float, typer.Option(help="Seconds one video may take.")] = 60.0,
    batch: Annotated[int, typer.Option(min=1, help="Questions about one video answered at a time.")] = 8,
) -> None:
    """Answer the questions of a benchmark, then judge or measure the answers and print the scores."""
    from vidtune.checkpoints.files.hub import locate
    from vidtune.cli.options.compute import pick_device, pick_dtype
    from vidtune.evaluation.checkpoint import open_checkpoint
    from vidtune.evaluation.predict import predict_benchmark
    from vidtune.recipe.overrides import override
    from vidtune.recipe.yaml_document import Document
    from vidtune.registry import BENCHMARKS

    folder = locate(checkpoint)
    entries, generation = _entries(folder, benchmark, data, limit)
    given = _folders(features or ())
    for entry in entries:
        test_set = BENCHMARKS[entry.name]
        folders = {stream: Path(folder) for stream, folder in (given or entry.features).items()}
        test_set.with_features(test_set.load(Path(entry.data or ".")), folders, stream="video")
    rules = Document({"generation": generation})
    for assignment in protocol or ():
        override(rules, assignment)
    judge = None
    if name != NO_JUDGE:
        judge = build_judge(
            name,
            out / CACHE,
            judge_url,
            judge_key,
            judge_prices,
            judge_max_cost,
            judge_max_calls,
            judge_concurrency,
        )
    pick_dtype(dtype)
    loaded = open_checkpoint(
        folder,
        pick_device(device),
        dtype,
        base=model_base,
        towers=assignments(tower, "--tower"),
        tokenizer=tokenizer,
    )
    for warning in loaded.checkpoint.report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for entry in entries:
        # Ablations of the recipe are further runs, unless one run is asked for by what it goes without.
        ablations = () if blind or without else entry.without
        for off in (tuple(without or ()), *ablations):
            summary = predict_benchmark(
                loaded,
                entry.name,
                Path(entry.data or "."),
                out,
                blind=blind,
                without=off,
                features=given or entry.features,
                overrides=rules.value,
                limit=entry.limit,
                workers=workers,
                media_timeout=media_timeout,
                max_batch_questions=batch,
            )
            typer.echo(f"{summary.run_dir}: {summary.answered} of {summary.planned} questions answered")
            if judge is not None:
                judge_and_score(summary.run_dir, judge)


def _folders(assignments: Sequence[str]) -> dict[str, str]:
    """Stream -> folder of ``STREAM=DIR`` options."""
    from vidtune.errors import UserError

    folders: dict[str, str] = {}
    for assignment in assignments:
        stream, equals, folder = assignment.partition("=")
        if not (stream and equals and folder):
            raise UserError(f"--features {assignment!r}: expected STREAM=DIR, for example video=features/visual")
        if stream in folders:
            raise UserError(f"--features {assignment!r}: {stream} has a folder already, {folders[stream]}")
        folders[stream] = folder
    return folders


def _entries(
    folder: Path, names: list[str] | None, data: Path | None, limit: int | None
) -> "tuple[list[BenchmarkEntry], dict[str, Any]]":
    """The benchmarks asked for; without names, those of the recipe beside the checkpoint with its decoding settings."""
    from vidtune.errors import UserError
    from vidtune.recipe.types import BenchmarkEntry, load_recipe

    entries, generation = [BenchmarkEntry(name=name) for name in names or ()], {}
    if not names and (folder / "recipe.yaml").is_file():
        recipe = load_recipe(folder / "recipe.yaml", expand=False)
        entries, generation = list(recipe.benchmarks), recipe.generation
    if not entries:
        raise UserError("name a benchmark with --benchmark; `vidtune benchmarks` lists them")
    entries = [
        entry.model_copy(update={"data": str(data) if data else entry.data, "limit": limit or entry.limit})
        for entry in entries
    ]
    if absent := next((entry.name for entry in entries if entry.data is None), None):
        raise UserError(f"benchmark {absent}: give the folder of its test set with --data")
    return entries, generation
