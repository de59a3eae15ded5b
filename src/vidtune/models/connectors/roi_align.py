"""RoIAlign, and the tokens of boxes out of maps of several levels.

Legend: N boxes, each in a frame of its own; K levels, S side of the map of a level, C its width, R side of the crop,
E inner width, D language-model width.
Source: Mask R-CNN (arXiv:1703.06870), RoIAlign without rounding; GPT4RoI (arXiv:2307.03601), multi-level extractor.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vidtune.models.connectors.fused_levels import rounded
from vidtune.models.connectors.interpolation import weights_at
from vidtune.models.initial import NormalConv2d


def roi_align(maps: Tensor, boxes: Tensor, size: int, samples: int) -> Tensor:
    """Crops of boxes, sampled bilinearly; the centre of the first cell of a map stands at 0.5.

    A box is cut into ``size`` x ``size`` bins; a bin is the mean of ``samples`` x ``samples`` points. Points more than
    one cell outside the map count as zero. The points of a box form a grid, so that the crop is two products of
    matrices: it needs no scattered reading, and its gradient is the same on every run. Boxes get no gradient.

    Args:
        boxes: x1, y1, x2, y2 in cells of the map; a box without area reads one point or line.

    Shape: (N, C, S, S), (N, 4) -> (N, C, size, size)
    """
    start, end = boxes.detach().float().sub(0.5).split(2, dim=1)
    steps = (torch.arange(size * samples, device=boxes.device) + 0.5) / samples
    places = start[..., None] + (end - start)[..., None] / size * steps  # (N, 2, points), x first
    side = maps.shape[-1]
    seen = (places >= -1) & (places <= side)
    weights = (weights_at(places, side) * seen[..., None]).unflatten(2, (size, samples)).mean(3).to(maps.dtype)
    across, down = weights.unbind(1)
    # Rows first, on maps whose channels stand last: both products read memory in order.
    lines = down @ maps.permute(0, 2, 3, 1).flatten(2)
    return (across[:, None] @ lines.unflatten(2, (side, -1))).permute(0, 3, 1, 2)


class BoxTokens(nn.Module):
    """Tokens of boxes: crops of all levels, fused, flattened, with an embedding of the box's place.

    Args:
        width: width C of the maps.
        inner: width E before the last layer.
        output: language-model width D.
        position: inner width of the embedding of the place.
        size, samples: see :func:`roi_align`.
        canvas: side of the picture in which boxes are measured, pixels.
        half: boxes and maps have the precision of float16.
    """

    def __init__(
        self,
        *,
        width: int,
        levels: int,
        inner: int,
        output: int,
        position: int,
        size: int,
        samples: int,
        canvas: int,
        half: bool = False,
    ) -> None:
        super().__init__()
        self.size, self.samples, self.canvas, self.rounds_to_half = size, samples, canvas, half
        self.pconvs = nn.ModuleList(NormalConv2d(width, width, 3, padding=1) for _ in range(levels))
        self.pos_embedd = nn.Sequential(
            nn.Linear(4, position),
            nn.ReLU(),
            nn.LayerNorm(position),
            nn.Linear(position, inner),
            nn.ReLU(),
            nn.LayerNorm(inner),
        )
        self.flatten_linear = nn.Linear(width * size**2, inner)
        self.updims = nn.Linear(inner, output)

    def crops(self, maps: Sequence[Tensor], boxes: Tensor) -> list[Tensor]:
        """Crops of the maps of every level.

        Args:
            boxes: x1, y1, x2, y2 from 0 to 1.

        Shape: K of (N, C, S, S), (N, 4) -> K of (N, C, R, R)
        """
        pixels = rounded(boxes.float() * self.canvas, self.rounds_to_half)
        return [
            roi_align(
                rounded(level, self.rounds_to_half), pixels * (level.shape[-1] / self.canvas), self.size, self.samples
            )
            for level in maps
        ]

    def forward(self, crops: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Shape: K of (N, C, R, R), (N, 4) -> (N, D)"""
        fused = sum(conv(crop) for conv, crop in zip(self.pconvs, crops, strict=True))
        with torch.autocast(boxes.device.type, enabled=False):  # in bfloat16 a box would be half a pixel off
            place = self.pos_embedd(boxes.to(self.updims.weight.dtype))
        return self.updims(self.flatten_linear(torch.relu(fused).flatten(1)) + place)
