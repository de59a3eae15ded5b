"""Operations of a training step, and the peak of the device, for the model FLOPs utilisation (MFU).

The operations that the model needs are counted, with full squares in attention as in PaLM (arXiv:2204.02311, appendix
B). Operations that are recomputed to save memory, and dummy packs, are not counted.
"""

import re
from collections.abc import Mapping

import torch

from vidtune.models.config import VideoLMConfig
from vidtune.models.text_alignment.contrast import ContrastConfig
from vidtune.models.towers.base import TowerConfig
from vidtune.recipe.types import Train
from vidtune.training.estimates.costs import StageCosts, stage_costs

# Tera floating-point operations per second without sparsity: bfloat16 (float32 sums), TensorFloat-32, float32.
# From data sheets and architecture white papers of the makers. The words of torch's device name select the entry.
PEAKS: dict[str, tuple[float, float, float]] = {
    "B200": (2250, 1125, 75),
    "GH200": (989, 494, 67),
    "H200 NVL": (835, 417, 60),
    "H200": (989, 494, 67),
    "H100 PCIe": (756, 378, 51),
    "H100 NVL": (835, 417, 60),
    "H100": (989, 494, 67),
    "H800": (989, 494, 67),
    "H20": (148, 74, 44),
    "A100": (312, 156, 19.5),
    "A800": (312, 156, 19.5),
    "A40": (149.7, 74.8, 37.4),
    "A30": (165, 82, 10.3),
    "A10": (125, 62.5, 31.2),
    "L40S": (362, 183, 91.6),
    "L40": (181, 90.5, 90.5),
    "L4": (121, 60, 30.3),
    "RTX 6000 Ada": (364.2, 182.1, 91.1),
    "RTX A6000": (154.8, 77.4, 38.7),
    "RTX 5090": (209.5, 104.8, 104.8),
    "RTX 4090": (165.2, 82.6, 82.6),
    "RTX 3090": (71, 35.6, 35.6),
    "MI300X": (1307, 654, 163),
}
# Words in device names that mean a slower device than the entry.
LESSER = {"Laptop", "MIG", "D", "Max"}


class StepFlops:
    """Counts the floating-point operations of forward and backward passes of a stage.

    Frozen parts count with their forward pass, and with the part of their backward pass that trained parts below them
    need.

    Args:
        costs: costs of the stage.
    """

    def __init__(self, costs: StageCosts) -> None:
        self._costs = costs

    @classmethod
    def of_stage(
        cls,
        config: VideoLMConfig,
        trained: Mapping[str, Train],
        teachers: Mapping[str, TowerConfig] | None = None,
        answers: bool = True,
        contrast: ContrastConfig | None = None,
    ) -> "StepFlops | None":
        """Returns the counter of a stage, see :func:`stage_costs`; None for a model that cannot be counted.

        Args:
            answers: whether the language model runs.
            contrast: what a contrastive stage compares.
        """
        try:
            costs = stage_costs(config, trained, "float32", teachers, contrast)
            return cls(costs if answers else costs.of_media_alone())
        except RuntimeError:
            return None

    def of(
        self, tokens: float, squared_tokens: float, items: Mapping[str, float], supervised: float, texts: int = 0
    ) -> float:
        """Returns the operations of packs.

        Args:
            tokens: number of tokens of the language model, media tokens included; with a layer program, the mean over
                its layers.
            squared_tokens: sum of the squared lengths of the examples, likewise.
            items: number of media items of each stream.
            supervised: number of tokens that the loss sums over.
            texts: number of texts that a text tower reads.
        """
        return (
            tokens * self._costs.token.flops
            + squared_tokens * self._costs.squared_token
            + supervised * self._costs.supervised.flops
            + texts * self._costs.text.flops
            + sum(number * self._of_item(stream) for stream, number in items.items())
        )

    def _of_item(self, stream: str) -> float:
        """Returns the operations of tower and connector; for a distilled stream also of teacher and alignment head."""
        costs = self._costs
        found = (part.get(stream) for part in (costs.items, costs.teachers, costs.aligned))
        return sum(cost.flops for cost in found if cost is not None)


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Returns the peak floating-point operations per second of a device, without sparsity; None if not known.

    Args:
        precision: precision of the stage, "float32" or "bfloat16"; float32 means TensorFloat-32 if torch is set to it.
    """
    return _named_peak(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None


def _named_peak(device_name: str, precision: str) -> float | None:
    words = set(re.split(r"[\s-]+", device_name))
    if words & LESSER:
        return None
    for name, peaks in PEAKS.items():
        if set(name.split()) <= words:
            bfloat16, tensor_float, single = peaks
            if precision == "float32":
                return 1e12 * (single if torch.get_float32_matmul_precision() == "highest" else tensor_float)
            return 1e12 * bfloat16
    return None
