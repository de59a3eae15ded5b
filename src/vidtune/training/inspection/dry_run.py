"""What a recipe's training will be, stage by stage, without training: from its plan, and the model's sizes alone."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from vidtune.checkpoints.build import build_config
from vidtune.checkpoints.checkpoints import OURS, load_checkpoint, read_config
from vidtune.checkpoints.files.hub import locate
from vidtune.checkpoints.teachers import alignment_sizes, teacher_config
from vidtune.models.config import VideoLMConfig
from vidtune.planning.lengths import Progress
from vidtune.planning.plan import StagePlan
from vidtune.recipe.types import Recipe, Stage
from vidtune.training.inspection.costs import stage_costs
from vidtune.training.inspection.memory import MemoryEstimate, estimate_memory
from vidtune.training.setup.exclusions import ExclusionList
from vidtune.training.setup.parameters import select_components
from vidtune.training.setup.stage import EXCLUSIONS, TABLES, check_stages, example_maker, stage_processor
from vidtune.training.setup.stage_data import open_stage_data
from vidtune.training.setup.starting_model import stands_on

IDLE_SHARE = 0.15
"""Share of idle places from which on a forecast warns."""
MARGIN = 1.1
"""How much larger than their mean content packs are advised to be: steps differ, and packs are never quite full."""


@dataclass(frozen=True)
class StageForecast:
    """What a stage will do.

    Args:
        stage: its settings.
        samples, excluded: that can be used, and that cannot.
        trained_samples: over all steps.
        packs_per_step: (steps,) int.
        tokens: of all packs; ``media_tokens`` and ``supervised`` are among them.
        padded_tokens: of the same batches padded to their longest sample, dummy packs not counted.
        longest: tokens of the longest sample.
        pack_items, pack_supervised: most media items per stream, and most supervised tokens, in one pack.
        ranks: number of ranks asked about.
        memory: of one rank; None where the model cannot be counted.
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
        return len(self.packs_per_step)

    @property
    def packs(self) -> int:
        return int(self.packs_per_step.sum())

    @property
    def fill(self) -> float:
        """Share of the token limit that packs use."""
        return self.tokens / (self.packs * self.stage.max_tokens_per_batch)

    @property
    def idle(self) -> float:
        """Share of the ranks' places that hold a dummy pack: every rank takes equally many in a step."""
        places = int((-(-self.packs_per_step // self.ranks)).sum()) * self.ranks
        return 1 - self.packs / places

    @property
    def advice(self) -> str | None:
        """What to change when many places are idle; None when few are."""
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


def forecast(recipe: Recipe, out: Path, *, ranks: int = 1, progress: Progress | None = None) -> Iterator[StageForecast]:
    """Plan every stage as training into ``out`` would; nothing but parsed tables and lengths is written there.

    Args:
        ranks: how many would train together.
        progress: told while samples are counted.

    Raises:
        UserError: what training would refuse before its first step.
    """
    check_stages(recipe)
    for number, stage in enumerate(recipe.stages):
        config = starting_config(recipe, number)
        config.alignments = {**config.alignments, **alignment_sizes(recipe, config)}
        make = example_maker(recipe, stage, stage_processor(recipe, stage, config), config)
        exclusions = ExclusionList(out / stage.name / EXCLUSIONS, writes=False)
        plan = open_stage_data(recipe, stage, make, config, out / TABLES, exclusions, progress).plan
        planned = count_plan(plan, len(exclusions.checked_ids), ranks)
        yield replace(planned, memory=rank_memory(recipe, config, planned))


def count_plan(plan: StagePlan, excluded: int, ranks: int) -> StageForecast:
    """Add up all steps of a stage."""
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
        for stream, column in lengths.items.items():
            items[stream] = max(items[stream], int(np.add.reduceat(column[samples], begins).max()))
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


def rank_memory(recipe: Recipe, config: VideoLMConfig, planned: StageForecast) -> MemoryEstimate | None:
    """What one rank needs; None where the model cannot be counted without its weights."""
    stage = planned.stage
    towers = [name for name in config.towers if name not in config.absent_towers]
    groups = {"towers": towers, "connectors": config.connectors, "alignments": config.alignments}
    components = [f"{group}.{name}" for group, parts in groups.items() for name in parts]
    trained = select_components([*components, "language_model"], stage.train, stage.name)
    teachers = {stream: teacher_config(recipe, stream) for stream in recipe.distillation}
    try:
        costs = stage_costs(config, trained, stage.precision, teachers)
    except RuntimeError:
        return None
    return estimate_memory(
        config, stage, costs, world=planned.ranks, items=planned.pack_items, supervised=planned.pack_supervised
    )


def describe(planned: StageForecast, tokens_per_second: float | None = None) -> str:
    """The forecast of a stage as aligned lines.

    Args:
        tokens_per_second: of all ranks together; None leaves the time out.
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
        parts = ", ".join(f"{name} {size / 2**30:.1f}" for name, size in asdict(planned.memory).items())
        lines["memory"] = f"about {planned.memory.total / 2**30:.1f} GiB per rank: {parts}"
    if tokens_per_second:
        hours = planned.tokens / tokens_per_second / 3600
        lines["time"] = f"{hours:,.1f} hours at {tokens_per_second:,.0f} tokens/s"
    if planned.advice:
        lines["warning"] = planned.advice
    return "\n".join([f"stage {planned.stage.name}", *(f"  {name:<8} {text}" for name, text in lines.items())])


def starting_config(recipe: Recipe, number: int) -> VideoLMConfig:
    """The config of the model that a stage starts from; weights are read only from foreign checkpoints."""
    stage = recipe.stages[number]
    earlier = [s.name for s in recipe.stages[:number]]
    source = stage.from_ or (earlier[-1] if earlier else recipe.checkpoint)
    if source is None:
        return build_config(recipe)
    if source in earlier:
        return starting_config(recipe, earlier.index(source))
    folder = locate(source, weights=False)
    if folder.is_dir() and (folder / "config.json").is_file() and read_config(folder).get("model_type") == OURS:
        return VideoLMConfig.from_pretrained(folder)
    return load_checkpoint(source, base=stands_on(recipe, source), tokenizer=recipe.tokenizer).model.config
