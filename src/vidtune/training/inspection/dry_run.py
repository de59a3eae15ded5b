"""Forecast of a training run, stage by stage, from its plan and the sizes of the model alone. Nothing is trained."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from vidtune.checkpoints.assembly.composition import config_of
from vidtune.checkpoints.build import build_config
from vidtune.checkpoints.recognise import recognise
from vidtune.checkpoints.teachers import alignment_sizes, teacher_config
from vidtune.machine.progress import ProgressCallback
from vidtune.models.config import VideoLMConfig
from vidtune.models.resizing import with_sizes
from vidtune.models.text_alignment.contrast import ContrastConfig
from vidtune.planning.plan import StagePlan
from vidtune.recipe.types import Recipe, Stage
from vidtune.training.estimates.costs import stage_costs
from vidtune.training.estimates.memory import MemoryEstimate, estimate_memory
from vidtune.training.setup.checks import check_stages
from vidtune.training.setup.examples import compared_with, example_maker, stage_processor
from vidtune.training.setup.exclusions import ExclusionList
from vidtune.training.setup.parameters import component_names, select_components
from vidtune.training.setup.run_folder import EXCLUSIONS, TABLES, folder_to_read, results
from vidtune.training.setup.stage_data import open_stage_data
from vidtune.training.setup.starting_model import sizes_of, stands_on

IDLE_SHARE = 0.15
"""Share of idle places above which a forecast warns."""
MARGIN = 1.1
"""Factor between the advised size of packs and their mean content: steps differ, and packs are never quite full."""


@dataclass(frozen=True)
class StageForecast:
    """Forecast of one stage.

    Args:
        stage: settings of the stage.
        samples, excluded: number of samples that can be used, and that cannot.
        trained_samples: number of samples in all steps together.
        packs_per_step: (steps,) int, number of packs of each step.
        tokens: number of tokens of all packs; ``media_tokens`` and ``supervised`` are parts of it.
        padded_tokens: number of tokens if each pack were padded to its longest sample, dummy packs not counted.
        longest: number of tokens of the longest sample.
        pack_items, pack_supervised: largest number of media items per stream, and of supervised tokens, in one pack.
        ranks: number of ranks that the forecast is for.
        memory: estimate for one rank; None where the model cannot be counted.
    """

    stage: Stage
    samples: int
    excluded: int
    trained_samples: int
    packs_per_step: np.ndarray
    tokens: int
    media_tokens: int
    supervised: int
    padded_tokens: int
    longest: int
    pack_items: dict[str, int]
    pack_supervised: int
    ranks: int
    memory: MemoryEstimate | None = None

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return len(self.packs_per_step)

    @property
    def packs(self) -> int:
        """Number of packs of all steps."""
        return int(self.packs_per_step.sum())

    @property
    def fill(self) -> float:
        """Share of the token limit that the packs fill."""
        return self.tokens / (self.packs * self.stage.max_tokens_per_batch)

    @property
    def idle(self) -> float:
        """Share of the places that hold a dummy pack; every rank has the same number of places in a step."""
        places = int((-(-self.packs_per_step // self.ranks)).sum()) * self.ranks
        return 1 - self.packs / places

    @property
    def advice(self) -> str | None:
        """Advice if many places are idle; None if few are."""
        if self.idle <= IDLE_SHARE:
            return None
        places = -(-self.packs // (self.steps * self.ranks)) * self.ranks
        fitting = int(MARGIN * self.tokens / self.steps / places)
        change = f"set max_tokens_per_batch to about {fitting:,}, " if fitting >= self.longest else ""
        limit, per_step = self.stage.max_tokens_per_batch, self.packs / self.steps
        return (
            f"max_tokens_per_batch {limit:,} makes {per_step:.1f} packs per step, which {self.ranks} ranks do not "
            f"share evenly: {change}take fewer ranks, or a larger global_batch_size"
        )


def forecast(
    recipe: Recipe, out: Path | None = None, *, ranks: int = 1, progress: ProgressCallback | None = None
) -> Iterator[StageForecast]:
    """Plan every stage as training would, and yield the forecast of each.

    Args:
        out: folder of the run. Tables and lengths that are made here are kept there for the training, and nothing else
            is written. While another process trains into it, nothing is written. None: nothing is kept.
        ranks: number of ranks that would train together.
        progress: called while samples are counted.

    Raises:
        UserError: a mistake that training would refuse before its first step.
    """
    check_stages(recipe)
    with folder_to_read(out, recipe) as folder:
        for number in range(len(recipe.stages)):
            yield _stage_forecast(recipe, number, folder, ranks, progress)


def _stage_forecast(
    recipe: Recipe, number: int, folder: Path, ranks: int, progress: ProgressCallback | None
) -> StageForecast:
    stage, config = recipe.stages[number], starting_config(recipe, number)
    config.alignments = {**config.alignments, **alignment_sizes(recipe, config)}
    compared = compared_with(recipe, number, config, folder)
    make = example_maker(recipe, stage, stage_processor(recipe, stage, config), config)
    make = replace(make, captions=compared.captions if compared else None)
    has_begun = any(results(folder, stage.name))
    exclusions = ExclusionList(folder / stage.name / EXCLUSIONS, writes=False, has_begun=has_begun)
    data = open_stage_data(recipe, stage, make, config, folder / TABLES, exclusions, progress)
    planned = count_plan(data.plan, data.left_out, ranks)
    return replace(planned, memory=rank_memory(recipe, config, planned, compared.config if compared else None))


def count_plan(plan: StagePlan, excluded: int, ranks: int) -> StageForecast:
    """Returns the forecast of a stage, without its memory, from all steps of its plan."""
    lengths = plan.lengths
    counts: dict[str, int] = dict.fromkeys(("samples", "tokens", "media", "supervised", "padded"), 0)
    items = dict.fromkeys(lengths.items, 0)
    most_supervised, per_step = 0, []
    for epoch in range(-(-plan.total_steps // plan.steps_per_epoch)):
        packs = plan.packs_of_epoch(epoch).until(plan.total_steps - epoch * plan.steps_per_epoch)
        samples, begins = packs.samples, packs.begins[:-1]
        tokens, supervised = lengths.tokens[samples], lengths.supervised[samples]
        per_step.append(np.diff(packs.first_packs))
        counts["samples"] += len(samples)
        counts["tokens"] += int(tokens.sum(dtype=np.int64))
        counts["media"] += int(lengths.media_tokens[samples].sum(dtype=np.int64))
        counts["supervised"] += int(supervised.sum(dtype=np.int64))
        counts["padded"] += int((np.maximum.reduceat(tokens, begins) * np.diff(packs.begins)).sum())
        most_supervised = max(most_supervised, int(np.add.reduceat(supervised, begins).max()))
        for stream, most in items.items():
            largest = np.add.reduceat(lengths.encodings(stream)[samples], begins).max()
            items[stream] = max(most, math.ceil(largest))
    return StageForecast(
        stage=plan.stage,
        samples=len(lengths),
        excluded=excluded,
        trained_samples=counts["samples"],
        packs_per_step=np.concatenate(per_step),
        tokens=counts["tokens"],
        media_tokens=counts["media"],
        supervised=counts["supervised"],
        padded_tokens=counts["padded"],
        longest=int(lengths.tokens.max()),
        pack_items=items,
        pack_supervised=most_supervised,
        ranks=ranks,
    )


def rank_memory(
    recipe: Recipe, config: VideoLMConfig, planned: StageForecast, contrast: ContrastConfig | None = None
) -> MemoryEstimate | None:
    """Returns the estimated memory of one rank; None if the model cannot be counted without its weights.

    Args:
        contrast: what a contrastive stage compares.
    """
    stage = planned.stage
    trained = select_components(component_names(config, stage), stage.train, stage.name)
    teachers = {stream: teacher_config(recipe, stream) for stream in recipe.distillation}
    try:
        costs = stage_costs(config, trained, stage.precision, teachers, contrast)
        if stage.objective:
            costs = costs.of_media_alone()
    except RuntimeError:
        return None
    return estimate_memory(
        config, stage, costs, world=planned.ranks, items=planned.pack_items, supervised=planned.pack_supervised
    )


def describe(planned: StageForecast, tokens_per_second: float | None = None) -> str:
    """Returns the forecast of a stage as aligned lines.

    Args:
        tokens_per_second: throughput of all ranks together; None: the time is not estimated.
    """
    per_step, limit = planned.packs_per_step, planned.stage.max_tokens_per_batch
    text = planned.tokens - planned.media_tokens
    lines = {
        "samples": f"{planned.samples:,}, {planned.excluded:,} left out; {planned.trained_samples:,} trained on in all",
        "steps": f"{planned.steps:,} of {planned.stage.global_batch_size:,} samples",
        "packs": f"{planned.packs:,} of at most {limit:,} tokens; "
        f"per step {per_step.min():,} to {per_step.max():,}, mean {per_step.mean():.1f}; {planned.fill:.1%} filled",
        "tokens": f"{planned.tokens:,}: media {planned.media_tokens:,}, text {text:,}; "
        f"{planned.supervised:,} of them supervised",
        "padding": f"none; the same batches padded to their longest sample: {planned.padded_tokens:,} tokens, "
        f"{planned.padded_tokens / planned.tokens:.2f} times as many",
        "ranks": f"{planned.ranks}, {planned.idle:.1%} of their places idle",
        "memory": "cannot be estimated for this model",
    }
    if planned.memory is not None:
        unit, size = ("GiB", 2**30) if planned.memory.total >= 2**30 else ("MiB", 2**20)
        parts = ", ".join(f"{name} {part / size:.1f}" for name, part in asdict(planned.memory).items())
        lines["memory"] = f"about {planned.memory.total / size:.1f} {unit} per rank: {parts}"
    if tokens_per_second:
        lines["time"] = f"{_time(planned.tokens / tokens_per_second)} at {tokens_per_second:,.0f} tokens/s"
    else:
        lines["time"] = "not estimated; --tokens-per-second N, as training or vidtune doctor shows it, gives it"
    if planned.advice:
        lines["warning"] = planned.advice
    return "\n".join([f"stage {planned.stage.name}", *(f"  {name:<8} {text}" for name, text in lines.items())])


def _time(seconds: float) -> str:
    """Returns a time in the largest unit that it fills."""
    unit, size = ("hours", 3600) if seconds >= 3600 else ("minutes", 60) if seconds >= 60 else ("seconds", 1)
    return f"{seconds / size:,.1f} {unit}"


def starting_config(recipe: Recipe, number: int) -> VideoLMConfig:
    """Returns the config of the model that a stage trains. No weights are read."""
    stage = recipe.stages[number]
    return with_sizes(_config_before(recipe, number), stage.sizes or {}, sizes_of(stage))


def _config_before(recipe: Recipe, number: int) -> VideoLMConfig:
    """Returns the config of the model that a stage starts from."""
    stage = recipe.stages[number]
    earlier = [s.name for s in recipe.stages[:number]]
    source = stage.from_ or (earlier[-1] if earlier else None)
    if source is None:
        return build_config(recipe) if recipe.starting_place is None else config_of(recognise(recipe))
    if source in earlier:
        return starting_config(recipe, earlier.index(source))
    return config_of(recognise(source, base=stands_on(recipe, source), system=recipe.system))
