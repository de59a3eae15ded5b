"""Check of the data of a recipe: the same tables, tokenisation and preprocessing as in training, but no weights."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from vidtune.checkpoints.assembly.composition import config_of
from vidtune.checkpoints.build import build_config
from vidtune.checkpoints.fit_processor import build_processor, processor_of, recipe_processor
from vidtune.checkpoints.recognise import recognise
from vidtune.data.checking.check import DataCheck
from vidtune.data.checking.findings import DataReport, Finding
from vidtune.data.sample import Sample
from vidtune.data.sources import data_sets
from vidtune.data.tables import AnnotationTable
from vidtune.machine.cores import media_workers
from vidtune.machine.progress import ProgressCallback, no_progress
from vidtune.media.probe import ProbeCache
from vidtune.models.config import VideoLMConfig
from vidtune.models.resizing import with_sizes
from vidtune.planning.lengths import ExampleMaker
from vidtune.processing.batch import Example
from vidtune.processing.processor import VideoLMProcessor
from vidtune.recipe.types import Recipe, Stage
from vidtune.spelling import counted, one_line
from vidtune.training.setup.checks import check_stages, chosen_stages
from vidtune.training.setup.examples import check_features, example_maker, for_stage
from vidtune.training.setup.exclusions import too_many
from vidtune.training.setup.pairs import REFUSED, AlignedSamples
from vidtune.training.setup.run_folder import CHECKED_FILES, EXCLUSIONS, MEDIA_FACTS, TABLES, check_recipe, held
from vidtune.training.setup.starting_model import sizes_of

NAMED, FEW = 20, 3
"""Number of samples that are named for each reason: of those that cannot be used, and of those that are kept."""


def check_recipe_data(
    recipe: Recipe,
    out: Path | None = None,
    *,
    only: str | None = None,
    decode: bool = False,
    progress: ProgressCallback = no_progress,
) -> Iterator[tuple[Stage, DataReport]]:
    """Check the data of every stage, and yield each stage with its report.

    Args:
        out: folder of the run. The samples that cannot be used are written to ``<out>/<stage>/excluded.jsonl``;
            training into ``out`` leaves them out. Parsed tables and the list of good files are kept there too. None:
            nothing is kept.
        only: name of one stage; None checks all of them.
        decode: decode every file, as training will; else only headers are read.
        progress: called while samples and files are checked; its tasks begin with the name of the stage.

    Raises:
        UserError: no such stage; annotations that are missing or broken; ``out`` holds the run of another recipe, or
            another process is training into it.
    """
    check_stages(recipe)
    stages = chosen_stages(recipe, only)
    starts = start_of_each_stage(recipe)
    for stage in stages:
        check_features(stage, starts[stage.name][1])
    if out is not None and out.is_dir():
        check_recipe(out, recipe)  # before anything is written, and again when nobody else can write
    with ExitStack() as stack:
        if out is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vidtune-")))
        else:
            folder = out
            stack.enter_context(held(out))
            check_recipe(out, recipe)
        media_info = ProbeCache(folder / TABLES / MEDIA_FACTS).get
        for stage in stages:
            config, processor = starts[stage.name]
            own = for_stage(processor, stage)
            own.media_info = media_info
            yield stage, _check_stage(recipe, stage, config, own, folder, decode, _of_stage(stage.name, progress))


def set_lists(recipe: Recipe, only: str | None = None) -> Iterator[str]:
    """Yield a report on each list of data sets of the stages: which of its sets are there, and why the others are not.

    Args:
        only: name of one stage; None: all stages.

    Raises:
        UserError: no such stage, or a list of the wrong form.
    """
    for stage in chosen_stages(recipe, only):
        for source in stage.data:
            if (sets := data_sets(source)) is None:
                continue
            there = sum(not one.missing for one in sets)
            lines = [f"{stage.name}: {source.annotations} has {there} of its {len(sets)} data sets here"]
            for one in sets:
                state = f"not there: {one.name}: {one.missing}" if one.missing else f"there: {one.name}: {one.sampling}"
                lines.append(f"  {state}")
            yield "\n".join(map(one_line, lines))


def describe(stage: Stage, report: DataReport, out: Path | None = None) -> str:
    """Returns the report of a stage as lines: counts, every reason with some samples that it concerns, and advice.

    Args:
        out: folder of the run, where samples that cannot be used are recorded; None: they are not.
    """
    unusable = sum(report.excluded.values())
    held = f"{counted(report.num_samples, 'sample')}, {counted(report.num_files, 'file')}"
    lines = [f"{stage.name}: {held}, {unusable} unusable"]
    lines += [f"  {note}" for note in report.notes]
    for what, counts in (("unusable", report.excluded), ("kept", report.noted)):
        for reason, count in counts.most_common():
            found = [finding for finding in report.findings if finding.reason == reason]
            lines.append(f"  {count:>7} {what}: {reason}; first: {_told(found[0])}")
            named = NAMED if what == "unusable" else FEW
            lines += [f"          {_told(finding)}" for finding in found[1:named]]
            if len(found) > named:
                where = "" if out is None else f"; {out / stage.name / EXCLUSIONS} lists those that are left out"
                lines.append(f"          and {len(found) - named} more{where}")
    if out is not None and unusable > _not_recorded(stage, report):
        then = "refuses this stage" if refusal(stage, report) else "goes on without them"
        lines.append(
            f"  recorded in {out / stage.name / EXCLUSIONS}: training {then}; mend them before the stage begins, then "
            "run this check again"
        )
    return "\n".join(map(one_line, lines))


def sources_of(stage: Stage) -> str:
    """Returns the annotation files of a stage, for messages."""
    return ", ".join(source.annotations for source in stage.data)


def refusal(stage: Stage, report: DataReport) -> str | None:
    """Returns why training would refuse the data of a stage; None if it would not."""
    unusable = sum(report.excluded.values())
    start = f"stage {stage.name!r}: "
    if report.refused is not None:
        return f"{start}{report.refused}"
    for reason in REFUSED if stage.objective else ():
        if count := report.excluded[reason]:
            first = next(finding for finding in report.findings if finding.reason == reason)
            return f"{start}{count} of {report.num_samples} samples: {reason}; the first: {_told(first)}"
    if unusable == report.num_samples:
        if unusable:
            return f"{start}none of its {unusable} samples can be used"
        return f"{start}no sample in {sources_of(stage)}"
    if report.unusable_sources:
        return f"{start}none of the samples of {', '.join(report.unusable_sources)} can be used"
    if too_many(unusable, report.num_samples, stage.max_excluded):
        return f"{start}{unusable} of {report.num_samples} samples cannot be used, more than max_excluded " + (
            f"({stage.max_excluded:g}): training would stop; mend the data, or raise max_excluded"
        )
    return None


def _told(finding: Finding) -> str:
    own = f" ({finding.original_id})" if finding.original_id else ""
    return f"{finding.id}{own}: {finding.detail}"


def _of_stage(name: str, progress: ProgressCallback) -> ProgressCallback:
    return lambda task, done, total: progress(f"{name}: {task}", done, total)


def _check_stage(
    recipe: Recipe,
    stage: Stage,
    config: VideoLMConfig,
    processor: VideoLMProcessor,
    out: Path,
    decode: bool,
    progress: ProgressCallback,
) -> DataReport:
    check = DataCheck(
        {name: settings.preprocessing for name, settings in processor.streams.items()},
        checked_files=out / CHECKED_FILES,
        companions=processor.companions,
        decode=decode,
        workers=max(1, media_workers(stage.workers)),
        timeout=stage.media_timeout,
    )
    table = AnnotationTable.open(stage.data, out / TABLES)
    aligned = AlignedSamples(stage, config) if stage.objective else None
    report = check.run(table, _encoding(example_maker(recipe, stage, processor), aligned), progress)
    report.refused = None if aligned is None else aligned.mistake()
    report.write_exclusions(out / stage.name / EXCLUSIONS, besides=REFUSED if stage.objective else ())
    return report


def _encoding(make: ExampleMaker, aligned: AlignedSamples | None) -> Callable[[Sample], Example]:
    """Function that makes the examples of a stage; one that has nothing to align is a SampleProblem."""
    if aligned is None:
        return make

    def encode(sample: Sample) -> Example:
        example = make(sample)
        aligned.add(sample, Counter(slot.stream for slot in example.media))
        return example

    return encode


def _not_recorded(stage: Stage, report: DataReport) -> int:
    """Number of samples that cannot be used and are not recorded, because the stage is refused for them."""
    return sum(report.excluded[reason] for reason in REFUSED) if stage.objective else 0


def processor_of_each_stage(recipe: Recipe) -> dict[str, VideoLMProcessor]:
    """The processor of each stage by its name, without the preprocessing settings of the stage."""
    return {name: processor for name, (_, processor) in start_of_each_stage(recipe).items()}


def start_of_each_stage(recipe: Recipe) -> dict[str, tuple[VideoLMConfig, VideoLMProcessor]]:
    """The config of the model of each stage by the name of the stage, and the processor that goes with it."""
    config, processor = _starting_processor(recipe)
    found: dict[str, tuple[VideoLMConfig, VideoLMProcessor]] = {}
    for stage in recipe.stages:
        config, processor = found.get(stage.from_ or "", (config, processor))
        if stage.sizes:
            config = with_sizes(config, stage.sizes, sizes_of(stage))
            processor = build_processor(config, processor.tokenizer)
        found[stage.name] = (config, processor)
    return found


def _starting_processor(recipe: Recipe) -> tuple[VideoLMConfig, VideoLMProcessor]:
    if recipe.starting_place:
        source = recognise(recipe.model_copy(update={"lora_runs": ()}))
        config = config_of(source)
        processor = processor_of(source, config, recipe.tokenizer)
        source.close()
        return config, processor
    config = build_config(recipe)
    return config, recipe_processor(recipe, config)
