"""``vidtune features``: the store of the outputs of frozen towers."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidtune.cli.options.groups import option_groups
from vidtune.cli.options.loading import ModelBase, ProtocolRules, System, limit_of, rules_of
from vidtune.cli.terminal.shown_text import show_line
from vidtune.errors import UserError

if TYPE_CHECKING:
    import torch

    from vidtune.features.tower_stream import Extraction, StreamReport
    from vidtune.machine.ranks.place import ProcessPlace

features = typer.Typer(
    help="Extract, list, verify and import stored features.", no_args_is_help=True, rich_markup_mode=None
)
TEXTS_AT_ONCE = 64
SHOWN = 10
"""Number of failed files that are printed; failed.jsonl lists all of them."""
Store = Annotated[Path, typer.Option(envvar="VIDTUNE_FEATURES", help="Folder of the store.")]


@features.callback()
def group() -> None:
    """Extract, list, verify and import stored features."""


@dataclass(frozen=True)
class OfBenchmark:
    """The options that name a benchmark and the checkpoint that will be asked about it."""

    checkpoint: Annotated[
        str | None, typer.Option(help="A checkpoint instead of a recipe: for the questions of --benchmark.")
    ] = None
    benchmark: Annotated[
        list[str] | None, typer.Option(help="Store all that its questions read; needs --data; may be repeated.")
    ] = None
    data: Annotated[Path | None, typer.Option(help="Folder of the test set, or one that holds several.")] = None
    protocol: ProtocolRules = None
    system: System = None
    model_base: ModelBase = None

    @property
    def named(self) -> bool:
        """Whether a benchmark or a checkpoint was given."""
        return bool(self.benchmark) or self.checkpoint is not None

    def extractions(self, store: Path, device: "torch.device", dtype: str | None) -> "Iterator[Extraction]":
        """The extraction for each benchmark by the towers of the checkpoint.

        Raises:
            UserError: an option is missing, or the checkpoint or the test set cannot be read.
        """
        from vidtune.checkpoints.files.hub import locate
        from vidtune.checkpoints.files.misplaced import require_checkpoint
        from vidtune.evaluation.checkpoint import open_checkpoint
        from vidtune.evaluation.test_set_features import benchmark_extraction

        if self.checkpoint is None or not self.benchmark or self.data is None:
            raise UserError("--checkpoint, --benchmark and --data belong together; give all three")
        folder = locate(self.checkpoint)
        require_checkpoint(folder)
        loaded = open_checkpoint(folder, str(device), dtype, system=self.system, base=self.model_base)
        for name in dict.fromkeys(self.benchmark):
            yield benchmark_extraction(loaded, name, self.data, store, rules_of(self.protocol))


@features.command()
@option_groups
def extract(
    store: Store,
    of_benchmark: OfBenchmark,
    recipe: Annotated[str | None, typer.Argument(help="Name of a shipped recipe, or a YAML file.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as stages.finetune.precision=bfloat16.")
    ] = None,
    tower: Annotated[
        list[str] | None,
        typer.Option(metavar="SYSTEM:STREAM[=WEIGHTS]", help="A tower instead of a recipe; may be repeated."),
    ] = None,
    videos: Annotated[
        Path | None, typer.Option(help="Folder of files; default: the files of the recipe's data.")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Stage of the recipe; default: all.")] = None,
    stream: Annotated[
        list[str] | None, typer.Option(help="Stream of the recipe; default: all; may be repeated.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the recipe's run, if an earlier stage trained the tower.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; default: the dtype of the stage, else float32.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Number of processes that decode; default: as in training.")
    ] = None,
    timeout: Annotated[float, typer.Option(callback=limit_of, help="Maximum time in seconds for one file.")] = 60.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of items that a tower encodes at once.")] = 8,
    rank: Annotated[
        int | None, typer.Option(min=0, help="Number of this share of the files, from 0; default: from the launcher.")
    ] = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="Number of shares; default: from the launcher.")] = None,
    device: Annotated[str | None, typer.Option(help="Torch device; default: a GPU if there is one.")] = None,
) -> None:
    """Store the outputs of frozen towers for the files of a recipe, of a folder, or of a benchmark.

    The same command continues where it was stopped.
    """
    import tempfile

    from vidtune.features.extract import extract as run
    from vidtune.features.extract import extract_texts
    from vidtune.features.media_listing import refs_of_folder, share_of
    from vidtune.features.towers import named_extraction
    from vidtune.machine.cores import media_workers
    from vidtune.machine.devices import pick_dtype
    from vidtune.machine.progress import ProgressDisplay
    from vidtune.machine.ranks.place import ProcessPlace, compute_device
    from vidtune.media.pool import MediaPool
    from vidtune.recipe.files import load_recipe
    from vidtune.recipe.mistakes import of_recipe
    from vidtune.training.inspection.extraction import stage_extractions

    _require_one_source(recipe, tower, of_benchmark, videos)
    pick_dtype(dtype)
    place = ProcessPlace.from_environment()
    share = _share(place, rank, ranks)
    target = compute_device(place, device)
    with (
        of_recipe(recipe),
        tempfile.TemporaryDirectory() as tables,
        MediaPool(media_workers(workers), timeout) as pool,
        ProgressDisplay(transient=True) as progress,
    ):
        if of_benchmark.named:
            found = of_benchmark.extractions(store, target, dtype)
        elif recipe is None:
            found = iter([named_extraction(tower or (), store, dtype or "float32", target)])
        else:
            found = stage_extractions(
                load_recipe(recipe, overrides or ()),
                store,
                Path(tables),
                only=stage,
                streams=stream or (),
                run=out,
                dtype=dtype,
                device=target,
            )

        def store_one(work: "Extraction") -> "Mapping[str, StreamReport]":
            refs = work.refs if videos is None else refs_of_folder(videos, work.streams.values())
            reports = run(share_of(refs, *share), work.streams, pool, batch_size=batch_size, progress=progress)
            if work.texts is not None and share[0] == 0:
                reports["text"] = extract_texts(work.texts, TEXTS_AT_ONCE, progress)
            return reports

        _store_all(found, store_one)


def _require_one_source(
    recipe: str | None, tower: list[str] | None, of_benchmark: OfBenchmark, videos: Path | None
) -> None:
    """Raise UserError unless one thing says which towers run, over files that are there."""
    if [recipe is None, not tower, not of_benchmark.named].count(False) != 1:
        raise UserError("name one of a recipe, towers with --tower, or a benchmark with --checkpoint and --benchmark")
    if tower and videos is None:
        raise UserError("--tower: name the folder of the files with --videos")
    if videos is not None and not videos.is_dir():
        raise UserError(f"{videos}: no such folder")


def _share(place: "ProcessPlace", rank: int | None, ranks: int | None) -> tuple[int, int]:
    """Number of this share of the files, and number of shares. Raises UserError where there is no such share."""
    share, shares = place.rank if rank is None else rank, place.world if ranks is None else ranks
    if share >= shares:
        raise UserError(f"--rank {share} is not possible with --ranks {shares}: ranks count from 0")
    return share, shares


def _store_all(found: "Iterable[Extraction]", store_one: "Callable[[Extraction], Mapping[str, StreamReport]]") -> None:
    """Run all extractions and print what became of each.

    Raises:
        UserError: not one file of a stream can be read, or nothing can be stored.
    """
    refused, failed, extracted = [], [], False
    for work in found:
        for reason in work.refused:
            show_line(f"not stored: {reason}")
        refused += work.refused
        reports = store_one(work)
        print_reports(work.title, reports)
        extracted = extracted or bool(reports)
        failed += [stream for stream, report in reports.items() if report.failed and not report.is_useful]
    if failed:
        raise UserError(f"stream {failed[0]}: not one file can be read; the reasons are listed above")
    if not extracted:
        raise UserError(f"nothing can be stored: {refused[0] if refused else 'the data hold no files'}")


def print_reports(title: str, reports: "Mapping[str, StreamReport]") -> None:
    """Print the report of every stream."""
    for stream, report in reports.items():
        counts = {"stored": report.stored, "found": report.found, "without it": report.absent}
        counts["failed"] = len(report.failed)
        typer.echo(f"{title}: {stream}: " + ", ".join(f"{number:,} {what}" for what, number in counts.items()))
        for path, reason in report.failed[:SHOWN]:
            show_line(f"  failed: {path}: {reason}")
        if len(report.failed) > SHOWN:
            typer.echo(f"  and {len(report.failed) - SHOWN:,} more, in failed.jsonl of the collection")


@features.command("list")
def list_all(store: Store) -> None:
    """List the collections of a store with their towers, sizes and numbers of items."""
    from vidtune.features.verify import require_collections, summaries

    require_collections(store)
    for found in summaries(store):
        failed = f", {found.failed:,} failed" if found.failed else ""
        size = f"{found.bytes / 2**30:.2f} GiB" if found.bytes >= 2**30 else f"{found.bytes / 2**20:.1f} MiB"
        typer.echo(f"{found.name}  {found.items:,} items, {size}{failed}  {found.title} {found.dtype}".rstrip())


@features.command()
def verify(store: Store) -> None:
    """Compare every byte of a store with its checksums; the exit code is 2 if one differs."""
    from vidtune.features.verify import require_collections
    from vidtune.features.verify import verify as check
    from vidtune.machine.progress import ProgressDisplay

    require_collections(store)
    problems = 0
    with ProgressDisplay(transient=True) as progress:
        for found in check(store, progress):
            twice = f", {found.twice:,} of them twice" if found.twice else ""
            typer.echo(f"{found.name}  {found.items:,} items intact{twice}, {len(found.problems)} problems")
            for problem in found.problems:
                show_line(f"  {problem}")
            problems += len(found.problems)
    if problems:
        raise UserError(f"{store}: {problems} problems, listed above")


@features.command("import")
def import_published(
    folder: Annotated[Path, typer.Argument(help="Published .npy, .pkl, .pt or .safetensors files, one per item.")],
    store: Store,
    name: Annotated[str, typer.Option(help="Name of the collection.")],
    width: Annotated[
        int | None,
        typer.Option(min=1, help="Width that features must have; default: that of more than half of the files."),
    ] = None,
) -> None:
    """Import a published feature folder as a collection, without executing code in it; a recipe can name its folder.

    The exit code is 2 if a file was refused; all others are imported.
    """
    from vidtune.features.imported import import_folder
    from vidtune.machine.progress import ProgressDisplay

    with ProgressDisplay(transient=True) as progress:
        report = import_folder(folder, store, name, width=width, progress=progress)
    counts = f"{report.imported:,} imported, {report.found:,} found, {len(report.failed):,} refused"
    typer.echo(f"{store / name}: {counts}; width {report.width}")
    for path, reason in report.failed[:SHOWN]:
        show_line(f"  refused: {path}: {reason}")
    if len(report.failed) > SHOWN:
        typer.echo(f"  and {len(report.failed) - SHOWN:,} more, in {store / name / 'failed.jsonl'}")
    if report.failed:
        total = report.imported + report.found + len(report.failed)
        raise UserError(
            f"{folder}: {len(report.failed):,} of {total:,} files were refused, listed above; mend or remove them"
        )
