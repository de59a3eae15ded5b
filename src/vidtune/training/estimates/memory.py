"""An estimate of the memory that one rank needs, before anything is built.

What is not in it: the allocator's fragmentation, the context and libraries of the device (a gigabyte or so), decoded
media that wait for their turn.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from vidtune.models.config import VideoLMConfig
from vidtune.models.language_model.loss import CHUNK_BYTES
from vidtune.recipe.types import Stage
from vidtune.training.estimates.costs import Cost, StageCosts
from vidtune.training.ranks.parallel import WHOLE_GRADIENT_BYTES

FLOAT32, BFLOAT16 = 4, 2
# Bytes of a frozen weight that is held in few bits, its scales included.
BITS = {"8bit": 1.0, "4bit": 0.56}


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one rank.

    Args:
        weights: as they are held between steps, teachers among them, and whole copies of what is gathered or cast for
            computing.
        gradients: of the trained weights, float32.
        optimizer: AdamW's two moments, float32.
        activations: the fullest pack's, media included.
        logits: of one chunk of supervised positions, and what their gradient needs.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return sum(asdict(self).values())


def estimate_memory(
    config: VideoLMConfig,
    stage: Stage,
    costs: StageCosts,
    *,
    world: int,
    items: Mapping[str, int],
    supervised: int,
) -> MemoryEstimate:
    """Estimate one rank's memory in a stage.

    Args:
        config: of the model.
        costs: of the stage, counted in its precision.
        world: number of ranks.
        items: most media items per stream in one pack.
        supervised: most supervised tokens in one pack.
    """
    shards = world if stage.parallel == "fsdp2" else 1
    compute = BFLOAT16 if stage.precision == "bfloat16" else FLOAT32
    trained = sum(part.trained for part in costs.weights.values())
    weights = trained * FLOAT32 / shards + costs.teacher_weights * compute
    whole_on_each = 0
    for name, part in costs.weights.items():
        in_few_bits = part.linear if stage.quantize and name == "language_model" else 0
        held = (part.frozen - in_few_bits) * compute + in_few_bits * BITS.get(stage.quantize or "", 0.0)
        is_frozen_tower = name.startswith("towers.") and not part.trained
        whole_on_each += part.frozen if is_frozen_tower else 0
        weights += held if is_frozen_tower else held / shards
    if shards > 1:
        # Gathered for computing: one layer and the next, and all that stands outside the layers.
        outside = sum(part.trained + part.frozen for part in costs.weights.values()) - whole_on_each
        weights += compute * (outside - sum(costs.layers) + 2 * max(costs.layers))
    else:
        weights += costs.fixed
    gradients = trained * FLOAT32
    logits = min(supervised * config.text_config.vocab_size, CHUNK_BYTES / FLOAT32)
    return MemoryEstimate(
        weights=weights,
        gradients=gradients if gradients <= WHOLE_GRADIENT_BYTES else gradients / shards,
        optimizer=trained * 2 * FLOAT32 / shards,
        activations=_activations(config, stage, costs, items, compute),
        # One chunk in float32, twice in what is computed in, and the head's gradient until it is added to the others.
        logits=logits * (FLOAT32 + 2 * compute) + costs.head.trained * FLOAT32,
    )


def _activations(
    config: VideoLMConfig, stage: Stage, costs: StageCosts, items: Mapping[str, int], compute: int
) -> float:
    """Bytes at the end of the forward pass of the fullest pack, and what the backward pass needs for one layer."""
    tokens = stage.max_tokens_per_batch
    language = tokens * costs.token.forward
    layer = language / len(costs.layers)
    if stage.gradient_checkpointing:
        language = tokens * len(costs.layers) * config.text_config.hidden_size * compute + layer

    def of_items(part: Mapping[str, Cost]) -> float:
        return sum(items[stream] * cost.forward for stream, cost in part.items() if stream in items)

    language += of_items(costs.aligned)
    media = of_items(costs.items)
    # What teachers and frozen towers need is free again before the language model runs.
    towers_learn = any(part.trained for name, part in costs.weights.items() if name.startswith("towers."))
    return layer + max(language + media if towers_learn else max(language, media), of_items(costs.teachers))
