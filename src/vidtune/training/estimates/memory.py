"""Estimate of the memory that one rank needs, before anything is built.

Not included: fragmentation of the allocator, context and libraries of the device (about one gigabyte), and decoded
media that wait in queues.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from vidtune.models.config import VideoLMConfig
from vidtune.models.language_model.loss import CHUNK_BYTES
from vidtune.recipe.types import Stage
from vidtune.training.estimates.costs import Cost, StageCosts
from vidtune.training.ranks.parallel import WHOLE_GRADIENT_BYTES

FLOAT32, BFLOAT16 = 4, 2
# Bytes of a quantised frozen weight, its scales included.
BITS = {"8bit": 1.0, "4bit": 0.56}


@dataclass(frozen=True)
class MemoryEstimate:
    """Estimated bytes on one rank.

    Args:
        weights: weights as they are held between steps, including teachers, and whole copies of weights that are
            gathered or cast for computing.
        gradients: gradients of the trained weights, float32.
        optimizer: the two running averages of AdamW, float32; Muon, which has one of a matrix, is counted alike.
        activations: activations of the fullest pack, media included.
        logits: logits of one chunk of supervised positions, and the tensors that their gradient needs.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """Sum of all parts."""
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
    """Returns the estimated memory of one rank in a stage.

    Args:
        config: config of the model.
        stage: settings of the stage.
        costs: costs of the stage, counted in its precision.
        world: number of ranks.
        items: largest number of media items per stream in one pack.
        supervised: largest number of supervised tokens in one pack.
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
        # Gathered for computing: one layer and the next one, and all weights outside the layers.
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
        # One chunk in float32 and twice in the compute dtype, and the gradient of the head until it is added up.
        logits=logits * (FLOAT32 + 2 * compute) + costs.head.trained * FLOAT32,
    )


def _activations(
    config: VideoLMConfig, stage: Stage, costs: StageCosts, items: Mapping[str, int], compute: int
) -> float:
    """Returns the bytes at the end of forward of the fullest pack, plus those that backward needs for one layer."""
    tokens = stage.max_tokens_per_batch
    language = tokens * costs.token.forward
    layer = language / len(costs.layers)
    if stage.gradient_checkpointing:
        language = tokens * len(costs.layers) * config.text_config.hidden_size * compute + layer

    def of_items(part: Mapping[str, Cost]) -> float:
        return sum(items[stream] * cost.forward for stream, cost in part.items() if stream in items)

    language += of_items(costs.aligned) + costs.text.forward * max(items.values(), default=0)
    media = of_items(costs.items)
    # The memory of teachers and frozen towers is free again before the language model runs.
    towers_learn = any(part.trained for name, part in costs.weights.items() if name.startswith("towers."))
    return layer + max(language + media if towers_learn else max(language, media), of_items(costs.teachers))
