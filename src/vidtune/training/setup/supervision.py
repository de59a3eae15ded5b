"""Whether a stage can learn: samples without a supervised token, and trained parts that no sample reaches."""

from collections import Counter
from dataclasses import replace

import numpy as np

from vidtune.data.problems import SampleProblem
from vidtune.data.tables import AnnotationTable
from vidtune.errors import RecipeError, UserError
from vidtune.models.config import VideoLMConfig
from vidtune.models.text_alignment.contrast import GROUP
from vidtune.planning.lengths import ExampleMaker, LengthTable
from vidtune.planning.plan import StagePlan
from vidtune.recipe.types import Stage
from vidtune.training.setup.pairs import AlignedSamples
from vidtune.training.setup.parameters import component_names, select_components

LOOKED_AT = 256
"""Number of samples without a supervised token that are looked at, to say why."""


def check_supervision(
    stage: Stage, config: VideoLMConfig, table: AnnotationTable, plan: StagePlan, make: ExampleMaker
) -> list[str]:
    """Check that the planned samples train something. Returns notes for the user about those that do not.

    Raises:
        UserError: no planned sample has a supervised token or a frame that is aligned with a teacher, or none reaches a
            trained part; says why.
    """
    lengths, where = plan.lengths, f"stage {stage.name!r}"
    if stage.objective:
        _require_aligned(where, stage, config, table, lengths)
    if make.captions is not None:
        return _unreached(stage, config, lengths)
    without = np.flatnonzero(lengths.supervised == 0)
    aligns = any(frames.any() for frames in lengths.frames.values())
    if len(without) == len(table) and not aligns:
        why = _reasons(table, make, without)
        raise UserError(
            f"{where}: none of its {len(table)} samples has a supervised token, so that nothing would be trained: "
            f"{why}; the first: {_named(table, make, int(without[0]))}; mend the answers, or raise the limit"
        )
    if len(without) and not aligns and not any(map(plan.supervised, range(plan.total_steps))):
        raise UserError(
            f"{where}: none of the samples of its {plan.total_steps} steps has a supervised token "
            f"({_reasons(table, make, without)}); mend the answers, raise the limit, or raise max_steps"
        )
    notes = _unreached(stage, config, lengths)
    if len(without):
        notes.append(
            f"{len(without)} of {len(table)} samples have no supervised token and train nothing: "
            f"{_reasons(table, make, without)}; the first: {_named(table, make, int(without[0]))}"
        )
    return notes


def _require_aligned(
    where: str, stage: Stage, config: VideoLMConfig, table: AnnotationTable, lengths: LengthTable
) -> None:
    """Raise RecipeError where samples do not have what the objective of the stage aligns."""
    samples = AlignedSamples(stage, config)
    blind = np.flatnonzero(~np.any([items > 0 for items in lengths.items.values()], axis=0))
    all_samples = stage.objective == "contrastive"  # the others need no text
    for index in range(len(table)) if all_samples else blind[:1].tolist():
        try:
            samples.add(table[index], {stream: int(items[index]) for stream, items in lengths.items.items()})
        except SampleProblem as problem:
            raise RecipeError(f"{where}: sample {problem.sample}: {problem.detail}") from None
    if (mistake := samples.mistake()) is not None:
        raise RecipeError(f"{where}: {mistake}")


def _unreached(stage: Stage, config: VideoLMConfig, lengths: LengthTable) -> list[str]:
    """Note about trained parts of streams of which no sample has an item. Raises UserError if these are all."""
    trained = list(select_components(component_names(config, stage), stage.train, stage.name))
    own = ("towers.", "connectors.", "alignments.", *(f"{GROUP}.{stream}" for stream in config.streams))
    reached = {name for name in trained if not name.startswith(own)}
    for stream, parts in config.streams.items():
        if lengths.items[stream].any():
            reached |= {f"towers.{parts['tower']}", f"connectors.{parts['connector']}", f"{GROUP}.{stream}"}
        if stream in lengths.frames and lengths.frames[stream].any():
            reached.add(f"alignments.{stream}")
    idle = [name for name in trained if name not in reached]
    if not idle:
        return []
    said = f"trains {', '.join(idle)}, but no sample has an item of its streams"
    if len(idle) == len(trained):
        raise RecipeError(
            f"stage {stage.name!r}: {said}, so that nothing would be trained; add such data, or mend train"
        )
    return [f"{said}: only weight decay changes it; leave it out of train, or add such data"]


def _reasons(table: AnnotationTable, make: ExampleMaker, without: np.ndarray) -> str:
    """Why these samples have no supervised token, each reason with a count."""
    looked_at = without[np.unique(np.linspace(0, len(without) - 1, LOOKED_AT).round().astype(int))]
    counts = Counter(_reason(table, make, int(index)) for index in looked_at)
    words = ", ".join(f"{reason}: {count}" for reason, count in counts.most_common())
    return words if len(looked_at) == len(without) else f"of {len(looked_at)} looked at: {words}"


def _named(table: AnnotationTable, make: ExampleMaker, index: int) -> str:
    """A sample by its id, with the number of frames of its videos that fit if its media are too long."""
    name = f"sample {table.id(index)}"
    if make.max_expanded_length is None:
        return name
    try:
        whole = replace(make, max_expanded_length=None)(table[index])
    except SampleProblem:
        return name
    fits = make.processor.fitting(whole, make.max_expanded_length) if len(whole) > make.max_expanded_length else ""
    return f"{name}{fits}"


def _reason(table: AnnotationTable, make: ExampleMaker, index: int) -> str:
    sample = table[index]
    answers = [turn.text for turn in sample.turns if turn.role == "assistant"]
    if not answers:
        return "no turn of the assistant"
    if not any(answer.strip() for answer in answers):
        return "every answer is empty"
    try:
        if make.max_length is not None and replace(make, max_length=None)(sample).num_supervised:
            return f"every answer is cut off by max_length ({make.max_length})"
        if make.max_expanded_length is not None and replace(make, max_expanded_length=None)(sample).num_supervised:
            return f"every answer is cut off by max_expanded_length ({make.max_expanded_length})"
        if replace(make, max_length=None, max_expanded_length=None)(sample).num_supervised:
            return f"every answer is cut off by max_length ({make.max_length}) and max_expanded_length"
    except SampleProblem as problem:
        return problem.reason
    return f"prompt format {make.prompt!r} supervises no token of its answers"
