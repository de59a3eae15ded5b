"""The data of a stage before it runs: annotations, lengths, excluded samples, and the plan."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from vidtune.data.problems import SampleProblem
from vidtune.data.sources import left_out_sets
from vidtune.data.tables import AnnotationTable
from vidtune.errors import RecipeError, UserError
from vidtune.machine.cores import available_cores
from vidtune.machine.progress import ProgressCallback
from vidtune.media.preprocessing.kinds import random_setting
from vidtune.models.config import VideoLMConfig
from vidtune.models.initial import without_values
from vidtune.models.language_model.attention import check_lengths
from vidtune.models.language_model.families import family_of
from vidtune.planning.lengths import ExampleMaker, LengthTable, open_lengths
from vidtune.planning.packing import CostModel
from vidtune.planning.plan import StagePlan
from vidtune.planning.randomness import random_seed
from vidtune.processing.batch import Example
from vidtune.recipe.types import Recipe, Stage
from vidtune.registry import ORDER_RULES
from vidtune.training.setup.exclusions import ExclusionList, too_many
from vidtune.training.setup.supervision import check_supervision

FROZEN_SHARE = 1 / 3
"""Cost of a forward pass alone, as a share of the cost of forward and backward."""


@dataclass(frozen=True, eq=False)
class StageData:
    """The data that a stage trains on.

    Args:
        table: the usable samples.
        plan: the plan over these samples; holds their lengths.
        make: function that makes an example of a sample.
        seed: seed of the recipe.
        notes: what to tell the user about samples and parts that do not train.
        left_out: number of samples that cannot be used.
    """

    table: AnnotationTable
    plan: StagePlan
    make: ExampleMaker
    seed: int
    notes: Sequence[str] = ()
    left_out: int = 0

    def example(self, index: int, epoch: int) -> Example:
        """Returns the example of the sample at a table index; random preprocessing is seeded by (seed, epoch, index).

        Raises:
            SampleProblem: the annotation is not usable, or a file was replaced after the plan was made.
        """
        streams = self.make.processor.streams.values()
        is_random = any(random_setting(stream.preprocessing) for stream in streams)
        example = self.make(self.table[index], random_seed(self.seed, epoch, index) if is_random else None)
        planned = int(self.plan.lengths.tokens[index])
        if len(example) != planned:
            reason = f"has {len(example)} tokens, but {planned} when the run started: a file was replaced since"
            raise SampleProblem("replaced during the run", reason, example.id)
        return example


def open_stage_data(
    recipe: Recipe,
    stage: Stage,
    make: ExampleMaker,
    config: VideoLMConfig,
    cache: Path,
    exclusions: ExclusionList,
    progress: ProgressCallback | None = None,
    known: Collection[str] = (),
) -> StageData:
    """Open the data of a stage. Annotations that were not parsed before are parsed, and their lengths are counted.

    Samples whose annotation cannot be used are recorded in ``exclusions`` and never enter the plan. Of many processes,
    one should call this before the others, which then find its tables.

    Args:
        config: of the model.
        cache: folder of parsed tables and lengths.
        progress: called while samples are counted.
        known: hashes by which the run knows its annotation files, see `AnnotationTable.open`.

    Raises:
        UserError: annotations that are missing, broken, empty or mostly not usable; a sample longer than a pack; data
            that train nothing.
    """
    table, lengths, left_out = _usable_samples(stage, make, cache, exclusions, progress, known)
    _require_room(stage, table, lengths)
    check_lengths(config.text_config, lengths.tokens)
    _require_words(stage, table)
    exclusions.bind(table.fingerprint)
    plan = StagePlan.of(stage, table, lengths, recipe.seed, cost_model(config))
    for source in plan.sources:
        if source.count and not source.per_epoch:
            raise RecipeError(
                f"stage {stage.name!r}: {source.path}: weight {source.weight:g} takes none of its {source.count} "
                "samples; raise it, or remove the source"
            )
    notes = [*left_out_sets(stage.data), *table.notes(), *check_supervision(stage, config, table, plan, make)]
    if left_out:
        notes.append(f"{left_out} of {left_out + len(table)} samples are left out; {exclusions.path} lists them")
    return StageData(table, plan, make, recipe.seed, notes, left_out)


def _usable_samples(
    stage: Stage,
    make: ExampleMaker,
    cache: Path,
    exclusions: ExclusionList,
    progress: ProgressCallback | None,
    known: Collection[str],
) -> tuple[AnnotationTable, LengthTable, int]:
    """Returns the samples that can be used, their lengths, and the number of the others, which are recorded."""
    whole = AnnotationTable.open(stage.data, cache, known)
    table = whole.without(exclusions.checked_ids(whole))
    lengths = open_lengths(table, make, cache, workers=available_cores(), progress=progress)
    unusable = np.flatnonzero(lengths.tokens == 0)
    versions = [table.media_versions(int(index)) for index in unusable]  # before they are looked at once more
    problems = [_problem(table, make, int(index)) for index in unusable]
    _require_few(stage, len(whole) - len(table), problems, len(whole), exclusions.path)
    if problems:
        exclusions.add_unusable(zip(problems, versions, strict=True), whole)
        table = table.without([problem.sample for problem in problems])
        lengths = lengths.select(np.flatnonzero(lengths.tokens))
    if not len(table):
        why = f"; the first: {problems[0]}" if problems else ""
        why = why or (f"; {exclusions.path} says why they are left out" if len(whole) else "")
        files = ", ".join(source.annotations for source in stage.data)
        raise UserError(f"stage {stage.name!r}: no sample to train on in {files}{why}")
    _require_each(stage, whole, table, problems)
    return table, lengths, len(whole) - len(table)


def cost_model(config: VideoLMConfig) -> CostModel:
    """Returns the cost model that packs are balanced by, from the sizes of the model alone.

    It assumes about two operations per weight and token in a forward pass. Towers count as frozen; where they train,
    media cost more than this, by the same factor for all. `vidtune.training.estimates.costs` counts more exactly, but
    it takes seconds and its result may change with the release of torch; the packs must not.
    """
    with without_values():
        language_model = family_of(config.text_config).build(config.text_config)
        weights = _size(language_model.get_decoder()) - _size(language_model.get_input_embeddings())
        towers = {name: _size(config.build_tower(name)) for name in config.towers}
    items = {}
    for stream, parts in config.streams.items():
        tower = config.tower(parts["tower"])
        items[stream] = FROZEN_SHARE * towers[parts["tower"]] / weights * tower.num_tokens(tower.input_shape())
    # Attention scores and weighted values: two operations each per layer, width and pair of tokens. Half of the pairs
    # are in the past.
    return CostModel(config.text_config.num_hidden_layers * config.text_config.hidden_size / weights, items)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _problem(table: AnnotationTable, make: ExampleMaker, index: int) -> SampleProblem:
    """Returns why a sample cannot be used."""
    try:
        make(table[index])
    except SampleProblem as problem:
        return problem
    return SampleProblem("no tokens", "the sample has no tokens", table.id(index))


def _require_few(stage: Stage, recorded: int, problems: list[SampleProblem], samples: int, record: Path) -> None:
    """Raise UserError if the samples recorded before and the problems are more than the stage may leave out."""
    if not too_many(recorded + len(problems), samples, stage.max_excluded):
        return
    reasons = [f"{reason}: {count}" for reason, count in Counter(p.reason for p in problems).most_common()]
    if recorded:
        reasons.append(f"recorded in {record}: {recorded}")
    first = f"the first one: {problems[0]}; " if problems else ""
    mend = f"mend them and delete {record}" if recorded else "mend them"
    raise UserError(
        f"stage {stage.name!r}: {recorded + len(problems)} of {samples} samples cannot be used ({', '.join(reasons)}), "
        f"more than max_excluded ({stage.max_excluded:g}); {first}{mend}, or raise max_excluded"
    )


def _require_each(
    stage: Stage, whole: AnnotationTable, usable: AnnotationTable, problems: Sequence[SampleProblem]
) -> None:
    """Raise UserError if a file has samples, but none that can be used."""
    for file, before, now in zip(whole.files, whole.counts, usable.counts, strict=True):
        if before and not now:
            own = [problem for problem in problems if problem.sample.rpartition(":")[0] == file.name]
            why = f"; the first: {own[0]}" if own else ""
            raise UserError(f"stage {stage.name!r}: {file.path}: none of its {before} samples can be used{why}")


def _require_room(stage: Stage, table: AnnotationTable, lengths: LengthTable) -> None:
    """Raise UserError if the longest sample does not fit into a pack."""
    longest = int(lengths.tokens.argmax())
    tokens, limit = int(lengths.tokens[longest]), stage.max_tokens_per_batch
    if tokens > limit:
        raise RecipeError(
            f"stage {stage.name!r}: sample {table.id(longest)} has {tokens} tokens but max_tokens_per_batch is "
            f"{limit}: set max_tokens_per_batch to at least {tokens}, or lower max_expanded_length"
        )


def _require_words(stage: Stage, table: AnnotationTable) -> None:
    """Raise UserError if a sample has no words and the order of the stage needs them."""
    wordless = np.flatnonzero(table.word_lengths == 0)
    if wordless.size and ORDER_RULES[stage.order].needs_words:
        raise UserError(
            f"stage {stage.name!r}: sample {table.id(int(wordless[0]))} has no words, which order {stage.order!r} "
            "goes by; mend it, or let vidtune data check record that it is left out"
        )
