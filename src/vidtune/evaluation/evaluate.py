"""Evaluate a model on a benchmark: ask, judge or measure, score; and the runs that a recipe plans."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidtune.errors import UserError
from vidtune.evaluation.asking.shared_videos import Session
from vidtune.evaluation.benchmarks.harnesses.known import asked_benchmark
from vidtune.evaluation.benchmarks.own.finding import benchmark_named
from vidtune.evaluation.checkpoint import DEFAULT_ANSWERING, AnsweringOptions, LoadedCheckpoint
from vidtune.evaluation.judges.base import DEFAULT_JUDGE, Judge
from vidtune.evaluation.models.base import EvaluatedModel
from vidtune.evaluation.models.opening import answering_model
from vidtune.evaluation.predict import WHOLE, Variant, by_rules, predict_benchmark
from vidtune.evaluation.protocol import merged
from vidtune.evaluation.question import QuestionSet
from vidtune.evaluation.scores.score import Score
from vidtune.evaluation.scores.scoring import by_metrics, score_run
from vidtune.machine.locks import locked
from vidtune.machine.ranks.place import ProcessPlace
from vidtune.media.kept.place import DecodedFolder
from vidtune.recipe.stored import stored_recipe
from vidtune.recipe.types import BenchmarkEntry
from vidtune.registry import JUDGES

if TYPE_CHECKING:
    from vidtune.checkpoints.load import Checkpoint


def evaluate(
    model: "EvaluatedModel | LoadedCheckpoint | Checkpoint | Path | str",
    benchmark: str,
    *,
    data: Path | str | None = None,
    out: Path | str,
    judge: Judge | str = DEFAULT_JUDGE,
    blind: bool = False,
    without: Sequence[str] = (),
    features: Mapping[str, Path | str] | None = None,
    protocol: Mapping[str, Any] | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    device: str = "cpu",
    dtype: str | None = None,
    answering: AnsweringOptions = DEFAULT_ANSWERING,
    other_versions: bool = False,
    progress: bool = True,
) -> Score:
    """Answer a benchmark with a model, judge or measure the answers, and return the score.

    Everything is stored below ``out``. Calling it again with the same arguments asks only what was not answered before.
    Under ``torchrun`` or ``srun`` the processes of the launcher share the videos; each returns the whole score.

    Args:
        model: folder or hub id of a checkpoint, or a checkpoint in memory (a ``model`` and its ``processor``), or any
            other model that answers, such as an endpoint (`evaluation.models`).
        benchmark: name of a registered benchmark, or path of a test set of one's own (``mine.jsonl``).
        data: folder of the test set, or one above it; of a test set of one's own, the folder that the paths in it start
            from (None: that of the file).
        out: folder of results; the run goes to ``out/<benchmark>``, ``out/<benchmark>-blind`` or
            ``out/<benchmark>-without-<stream>``.
        judge: a judge, or the name of one without settings; not used where metrics score the benchmark. "metrics": no
            judge, for a test set of one's own.
        blind: black frames and silence: the score of a model that neither sees nor hears.
        without: streams that are switched off.
        features: stream -> folder of stored features that are read instead of the videos.
        protocol: rules to change, such as ``{"generation": {"max_new_tokens": 64}}``.
        limit: number of questions from the start of the test set; None: all.
        retry_failed: ask questions again that failed in an earlier call.
        device, dtype: where and in which precision a checkpoint is loaded that is not in memory yet.
        answering: how answers are computed; never changes one.
        other_versions: go on with a run that other versions of the software began; the score then says so.
        progress: show how far it is, on standard error.

    Raises:
        NothingScoredError: no answer is in any official value.
        UserError: bad test set, checkpoint or option, or ``out`` holds another run's results.
    """
    variant = Variant(blind, tuple(without), features or {}, protocol or {}, limit)
    _require_judge(judge, benchmark, Path(out))
    folder = data_folder(benchmark, data)
    loaded = answering_model(model, device, dtype)
    place = ProcessPlace.from_environment()
    summary = predict_benchmark(
        loaded,
        benchmark,
        folder,
        Path(out),
        variant,
        answering,
        Session(place.rank, place.world, retry_failed, other_versions, progress and place.rank == 0),
    )
    with locked(summary.run_dir / "scoring"):  # the others find what the first one has judged
        return score_run(summary.run_dir, judge, progress=progress)


def _require_judge(judge: Judge | str, benchmark: str, out: Path) -> None:
    """Look up the judge by its name, before any question is asked.

    Raises:
        UserError: an unknown name that no judgements below ``out`` have either, or metrics where there are none.
    """
    if by_metrics(benchmark_named(benchmark), judge) or not isinstance(judge, str):
        return
    if judge in JUDGES or not any(out.glob(f"{benchmark}*/judgements/{escape(judge)}.jsonl")):
        JUDGES[judge]


def data_folder(benchmark: str, data: Path | str | None) -> Path:
    """The folder of a test set, or one above it.

    Raises:
        UserError: none is given, and the benchmark has none of its own.
    """
    folder = data or benchmark_named(benchmark).default_data
    if folder is None:
        raise UserError(f"benchmark {benchmark}: give the folder of its test set with --data")
    return Path(folder)


@dataclass(frozen=True)
class PlannedRun:
    """One run of a benchmark.

    Args:
        data: folder of the test set, or one above it.
    """

    benchmark: str
    data: Path
    variant: Variant

    @cached_property
    def questions(self) -> QuestionSet:
        """The test set. Raises UserError: it cannot be read; names the file."""
        return asked_benchmark(self.benchmark, self.variant.overrides).load(self.data)

    def is_decoded(self) -> bool:
        """Whether something that was decoded of the first video is kept, so that there may be nothing to decode."""
        decoded, file = DecodedFolder.from_environment(), next((one.file for one in self.questions.questions), None)
        return decoded is not None and file is not None and decoded.holds(str(Path(self.questions.folder, file)))

    def require_readable(self, judge: Judge | str = DEFAULT_JUDGE) -> None:
        """Read the test set and find its features, before a model is loaded.

        Raises:
            UserError: something is missing or broken; names the file. Or this judge does not score the benchmark.
        """
        test_set = asked_benchmark(self.benchmark, self.variant.overrides)
        by_metrics(test_set, judge)
        folders = {stream: Path(folder) for stream, folder in self.variant.features.items()}
        questions = self.questions
        if folders:
            test_set.with_features(questions, folders, stream=test_set.stream)


def planned_runs(
    checkpoint: Path | None, names: Sequence[str] = (), data: Path | None = None, variant: Variant = WHOLE
) -> list[PlannedRun]:
    """The runs to make with a checkpoint.

    Args:
        checkpoint: folder of the checkpoint; None: the model has none.
        names: benchmarks; none: those of the recipe beside the checkpoint. One that the recipe lists is run as it says:
            with its decoding settings, and one more run for each of its ablations and changed rules unless ``variant``
            is blind or goes without a stream. Any other is run by its own protocol.
        data: folder of the test sets; None: as the recipe says.
        variant: what every run has in common; what it does not say is taken from the recipe.

    Raises:
        UserError: no benchmark is named, or one whose data is not.
    """
    recipe = None if checkpoint is None else stored_recipe(checkpoint)
    listed = () if recipe is None else recipe.benchmarks
    entries = list(listed)
    if names:
        own = {name: [entry for entry in listed if entry.name == name] for name in names}
        entries = [entry for name in names for entry in own[name] or [BenchmarkEntry(name=name)]]
    if not entries:
        raise UserError("name a benchmark with --benchmark; `vidtune benchmarks` lists them")
    decoding = {} if recipe is None else merged({"generation": recipe.generation}, variant.overrides)
    variants = [replace(variant, overrides=decoding) if entry in listed else variant for entry in entries]
    return [run for entry, own in zip(entries, variants, strict=True) for run in _runs_of(entry, data, own)]


def _runs_of(entry: BenchmarkEntry, data: Path | None, variant: Variant) -> list[PlannedRun]:
    """The whole run of a benchmark, then its ablations, and those by other rules."""
    folder = data_folder(entry.name, data or entry.data)
    whole = replace(variant, features=variant.features or entry.features, limit=variant.limit or entry.limit)
    variants = [whole]
    # Those of the recipe are further runs, unless one run is asked for by what it goes without.
    if not (variant.blind or variant.without):
        variants += [replace(whole, without=without) for without in entry.without]
        variants += [by_rules(whole, rules) for rules in entry.rules]
    return [PlannedRun(entry.name, folder, one) for one in variants]
