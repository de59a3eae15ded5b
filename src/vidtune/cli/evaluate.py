"""``vidtune evaluate``: ask a checkpoint the questions of a benchmark, then judge and score the answers."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidtune.cli.options.asking import ModelOptions
from vidtune.cli.options.endpoint import EndpointOptions
from vidtune.cli.options.groups import option_groups
from vidtune.cli.options.judging import CACHE, NO_JUDGE, JudgeOptions, Scoring, count_earlier, judge_and_score
from vidtune.cli.options.loading import (
    LayerProgram,
    ProtocolRules,
    Revision,
    Store,
    assignments,
    layer_program_of,
    limit_of,
    rules_of,
)
from vidtune.cli.options.reading import ReadingOptions
from vidtune.cli.terminal.shown_text import show_line
from vidtune.errors import UserError
from vidtune.machine.memory import uncollected
from vidtune.machine.workers import prepare

if TYPE_CHECKING:
    from vidtune.evaluation.checkpoint import AnsweringOptions
    from vidtune.evaluation.evaluate import PlannedRun
    from vidtune.evaluation.judges.base import Judge
    from vidtune.evaluation.models.base import EvaluatedModel
    from vidtune.evaluation.predict import PredictionSummary
    from vidtune.machine.ranks.place import ProcessPlace


@dataclass(frozen=True)
class QuestionOptions:
    """The options that say what is asked, and what the model is given."""

    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            help="Name, or a test set of your own (mine.jsonl); may be repeated. Default: those of the recipe beside "
            "the checkpoint, with its settings."
        ),
    ] = None
    data: Annotated[
        Path | None, typer.Option(help="Folder of the test set, or one that holds several; of your own: of its media.")
    ] = None
    blind: Annotated[
        bool, typer.Option("--blind", help="Black frames and silence: what the model scores without seeing or hearing.")
    ] = False
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="STREAM", help="Switch a stream off, such as audio; may be repeated, for one run."),
    ] = None
    features: Annotated[
        list[str] | None,
        typer.Option(metavar="STREAM=DIR", help="Read stored features instead of videos; one option per stream."),
    ] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Ask only this many questions.")] = None
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Ask questions again that failed before.")] = (
        False
    )
    protocol: ProtocolRules = None
    layer_program: LayerProgram = None

    def runs(self, folder: Path | None, reading: ReadingOptions) -> "list[PlannedRun]":
        """The runs to make with the checkpoint in this folder; None: the model has none."""
        from vidtune.evaluation.evaluate import planned_runs
        from vidtune.evaluation.predict import Variant

        rules = rules_of(self.protocol)
        if part := reading.build():
            rules["reading"] = {**rules.get("reading", {}), **reading.rules(part)}
        if (steps := layer_program_of(self.layer_program)) is not None:
            rules["layer_program"] = steps
        variant = Variant(
            blind=self.blind,
            without=tuple(self.without or ()),
            features=assignments(self.features, "--features"),
            overrides=rules,
            limit=self.limit,
        )
        return planned_runs(folder, self.benchmark or (), self.data, variant)


@dataclass(frozen=True)
class EngineOptions:
    """The options that say how answers are computed; they never change one."""

    workers: Annotated[int, typer.Option(min=0, help="Processes that decode videos.")] = 2
    media_timeout: Annotated[float, typer.Option(callback=limit_of, help="Seconds one video may take.")] = 60.0
    batch: Annotated[int, typer.Option(min=1, help="Questions about one video answered at a time.")] = 32

    store: Store = None

    def answering(self, place: "ProcessPlace") -> "AnsweringOptions":
        from vidtune.evaluation.checkpoint import AnsweringOptions

        return AnsweringOptions(
            self.workers, self.media_timeout, self.batch, processes=place.local_world, store=self.store
        )


@option_groups
def evaluate(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder of results; the run goes to OUT/BENCHMARK and resumes there.")],
    questions: QuestionOptions,
    reading: ReadingOptions,
    judging: JudgeOptions,
    model: ModelOptions,
    endpoint: EndpointOptions,
    engine: EngineOptions,
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            help="Folder or hub id: any format that `vidtune systems` lists, or any image-text-to-text model of "
            "transformers. Left out with --model."
        ),
    ] = None,
    other_versions: Annotated[
        bool, typer.Option("--other-versions", help="Go on with a run of other versions; the score says so.")
    ] = False,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes of this machine that share the videos, such as one per GPU.")
    ] = 1,
    revision: Revision = None,
) -> None:
    """Answer the questions of a benchmark, then judge or measure the answers and print the scores."""
    with uncollected():
        from vidtune.evaluation.asking.shared_videos import Session
        from vidtune.evaluation.predict import predict_benchmark
        from vidtune.machine.ranks.launch import follow_launcher
        from vidtune.machine.ranks.place import ProcessPlace

    asked: EvaluatedModel | None = endpoint.build(checkpoint, judging.prices)
    folder = _located(checkpoint, revision)
    runs = questions.runs(folder, reading)
    for run in runs:
        run.require_readable(judging.judge)
    if processes == 1 and engine.workers and not _finds_decoded(model, folder, runs):
        prepare("vidtune.media.worker")  # beside the loading of torch and the model; it loads torch too
    judge = None if judging.judge == NO_JUDGE else judging.build(out / CACHE)
    if not follow_launcher() and processes > 1 and _asked_by_all(context.obj, processes):
        return
    place = ProcessPlace.from_environment()
    session = Session(place.rank, place.world, questions.retry_failed, other_versions, progress=place.rank == 0)
    if folder is not None:
        with uncollected():
            asked = model.open(folder, place)
    assert asked is not None
    scoring = Scoring()
    for run in runs:
        summary = predict_benchmark(asked, run.benchmark, run.data, out, run.variant, engine.answering(place), session)
        if place.rank == 0:
            _report(summary, judge, scoring)
    scoring.end()


def _finds_decoded(model: ModelOptions, folder: Path | None, runs: "Sequence[PlannedRun]") -> bool:
    """Whether there may be nothing to decode. Only models of vidtune read what was decoded and kept."""
    if folder is None or not all(run.is_decoded() for run in runs):
        return False
    with uncollected():
        return not model.is_of_transformers(folder)


def _located(checkpoint: str | None, revision: str | None) -> Path | None:
    """The folder of a checkpoint; None: an endpoint answers. Raises UserError: it holds none."""
    from vidtune.checkpoints.files.hub import locate, pinned
    from vidtune.checkpoints.files.misplaced import require_checkpoint

    if checkpoint is None:
        return None
    folder = locate(pinned(checkpoint, revision))
    require_checkpoint(folder)
    return folder


def _report(summary: "PredictionSummary", judge: "Judge | str | None", scoring: Scoring) -> None:
    """Print what was asked, then score it."""
    from vidtune.evaluation.runs.usage import usage_of, usage_words

    typer.echo(f"{summary.run_dir}: {summary.ledger}")
    if (usage := usage_of(summary.run_dir)).calls:
        typer.echo(f"asked, with earlier sessions: {usage_words(usage)}")
    with scoring.of_one():
        _score(summary, judge if scoring.goes_on(summary.run_dir) else None)
    with scoring.of_one():
        _require_complete(summary)


def _asked_by_all(arguments: Sequence[str], processes: int) -> bool:
    """Run this command in several processes, the first of which scores. Returns whether it did.

    Raises:
        LaunchFailed: all processes failed, or one found a mistake of the user.
    """
    from vidtune.machine.ranks.launch import LaunchFailed, LaunchPolicy, launch

    policy = LaunchPolicy(
        independent=True,
        interrupted="interrupted; the same command goes on where it stopped",
        lost="as all others did; the same command goes on where it stopped",
        taken_over="and the others took over its videos",
    )
    ended = launch([sys.executable, "-m", "vidtune", *arguments], processes, policy)
    if ended.code:
        raise LaunchFailed(ended.code)
    return 0 not in ended.lost


def _require_complete(summary: "PredictionSummary") -> None:
    """Raise UserError where questions are open: what was scored is not the whole run."""
    if summary.open and summary.answered:
        raise UserError(
            f"{summary.run_dir}: {summary.open} of {summary.planned} questions are open: their videos could not be "
            "read; run the same command again"
        )


def _score(summary: "PredictionSummary", judge: "Judge | str | None") -> None:
    """Score a run, or say why its questions have no answer.

    Raises:
        UserError: nothing was answered or scored, or the judge cannot go on.
    """
    if judge is not None and summary.answered:
        count_earlier(judge, [summary.run_dir])
        judge_and_score(summary.run_dir, judge)
        return
    for line in summary.ledger.reasons():
        show_line(f"  {line}")
    if not summary.answered:
        why = "; ".join(summary.ledger.reasons()) or "the run has none"
        raise UserError(f"{summary.run_dir}: no question was answered: {why}")
