"""Region connector: one token for each box of an item, out of several hidden states of the tower.

With ``clusters``, an item of more boxes than that becomes that many tokens: K-means of its tokens chooses them.

Legend: I items, T frames of an item with one box each, N frames of several items, K tapped hidden states, P patches of
a frame in a grid of side G, C tower width, D language-model width.
Source: arXiv:2406.00258; GPT4RoI (arXiv:2307.03601).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vidtune.models.connectors.clustering import k_means, representatives, start_points
from vidtune.models.connectors.convolution import TiledConvolution
from vidtune.models.connectors.fused_levels import FusedLevels
from vidtune.models.connectors.roi_align import BoxTokens

MAP_NUMBERS = 2**26
"""Numbers in the maps of the frames that are computed together; bounds the memory. Three frames of published size."""


@dataclass(frozen=True, kw_only=True)
class RegionConnectorConfig:
    """Sizes of a region connector; the defaults are the published ones.

    Args:
        hidden_size: tower width C.
        output_size: language-model width D.
        num_levels: number of hidden states K that its stream taps.
        grid: side G of the tower's grid of patches.
        rounds, groups: see :class:`FusedLevels`.
        roi_size, sampling_ratio: bins along a side of a crop, points along a side of a bin.
        image_size: side of the picture in which boxes are measured, pixels.
        inner_size, position_size: see :class:`BoxTokens`.
        clusters: most tokens of an item; None: one for each box.
        iterations, restarts, cluster_seed: see :func:`k_means`; the seed draws its starting points.
        half: the float16 roundings of the published code, in any precision.
    """

    hidden_size: int = 1024
    output_size: int = 4096
    num_levels: int = 4
    grid: int = 16
    rounds: int = 5
    groups: int = 64
    roi_size: int = 14
    sampling_ratio: int = 2
    image_size: int = 224
    inner_size: int = 1024
    position_size: int = 256
    clusters: int | None = None
    iterations: int = 3
    restarts: int = 8
    cluster_seed: int = 123
    half: bool = False

    takes_items: ClassVar[bool] = True
    extras: ClassVar[dict[str, tuple[int | None, ...]]] = {"boxes": (None, 4)}

    def __post_init__(self) -> None:
        unbounded = ("clusters", "cluster_seed", "half")
        for name in (field.name for field in fields(self) if field.name not in unbounded):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is less than 1")
        if not 0 <= self.cluster_seed < 2**63:
            raise ValueError(f"cluster_seed {self.cluster_seed} is not from 0 to 2**63 - 1")
        if self.hidden_size % self.groups:
            raise ValueError(f"hidden_size {self.hidden_size} does not divide into {self.groups} groups")
        if self.hidden_size < 4:
            raise ValueError(f"hidden_size {self.hidden_size} is less than 4; a quarter goes to each neighbour")
        if self.clusters is not None and self.clusters < 1:
            raise ValueError(f"clusters {self.clusters} is less than 1")

    def num_boxes(self, shape: tuple[int, ...]) -> int:
        """Number of frames, and so of boxes, of an item with features of shape (K, T * P, C)."""
        if len(shape) != 3 or shape[0] != self.num_levels or not shape[1] or shape[1] % self.grid**2:
            raise ValueError(
                f"features of shape {tuple(shape)}; it needs {self.num_levels} tapped states (taps) of frames of "
                f"{self.grid} x {self.grid} patches"
            )
        return shape[1] // self.grid**2

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        """Number of embeddings: one for each box, at most ``clusters``."""
        boxes = self.num_boxes(shape)
        return boxes if self.clusters is None else min(boxes, self.clusters)

    def build(self) -> "RegionConnector":
        return RegionConnector(self)


class RegionConnector(nn.Module):
    """Tokens of boxes.

    An item has extras ``boxes`` (T, 4): x1, y1, x2, y2 from 0 to 1 of its frames; and in training ``draw`` (T,), by
    which a member of each cluster is chosen; without it the first member.

    Shape: list of (K, T * P, C) and their extras -> list of (M, D), M as ``config.num_tokens`` says
    """

    def __init__(self, config: RegionConnectorConfig) -> None:
        super().__init__()
        self.config = config
        self.mlvl_fuse = FusedLevels(config.hidden_size, config.num_levels, config.rounds, config.groups, config.half)
        self.roi_align = BoxTokens(
            width=config.hidden_size,
            levels=config.num_levels,
            inner=config.inner_size,
            output=config.output_size,
            position=config.position_size,
            size=config.roi_size,
            samples=config.sampling_ratio,
            canvas=config.image_size,
            half=config.half,
        )

    def forward(self, features: list[Tensor], extras: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
        config = self.config
        lengths = [config.num_boxes(tuple(block.shape)) for block in features]
        boxes = [more["boxes"].to(features[0].device, torch.float32) for more in extras]
        for length, given in zip(lengths, boxes, strict=True):
            if len(given) != length:
                raise ValueError(f"{len(given)} boxes for {length} frames")
        states = [block.unflatten(1, (-1, config.grid, config.grid)).transpose(0, 1) for block in features]
        tokens = self.box_tokens(torch.cat(states), torch.cat(boxes)).split(lengths)
        return self.chosen(tokens, [more.get("draw") for more in extras])

    def box_tokens(self, states: Tensor, boxes: Tensor) -> Tensor:
        """Tokens of boxes, each in a frame of its own. The maps of a few frames exist at a time.

        Shape: (N, K, G, G, C), (N, 4) -> (N, D)
        """
        numbers = self.config.hidden_size * sum(side**2 for side in self.mlvl_fuse.sides(self.config.grid))
        together = max(1, MAP_NUMBERS // numbers)
        parts = list(zip(states.split(together), boxes.split(together), strict=True))
        crops = partial(self._crops, TiledConvolution())
        if len(parts) > 1 and torch.is_grad_enabled():
            crops = partial(checkpoint, crops, use_reentrant=False, preserve_rng_state=False)
        levels = zip(*(crops(*part) for part in parts), strict=True)
        return self.roi_align([torch.cat(level) for level in levels], boxes)

    def _crops(self, tiled: TiledConvolution, states: Tensor, boxes: Tensor) -> list[Tensor]:
        """Shape: (N, K, G, G, C), (N, 4) -> K of (N, C, R, R)"""
        return self.roi_align.crops(self.mlvl_fuse(states, tiled), boxes)

    def chosen(self, tokens: Sequence[Tensor], draws: Sequence[Tensor | None]) -> list[Tensor]:
        """Of each item the tokens that stand for it. Shape: list of (T, D) -> list of (M, D)"""
        clusters, found = self.config.clusters, list(tokens)
        alike: dict[tuple[int, bool], list[int]] = {}
        for place, (block, draw) in enumerate(zip(tokens, draws, strict=True)):
            if clusters is not None and len(block) > clusters:
                alike.setdefault((len(block), draw is None), []).append(place)
        for places in alike.values():
            points = torch.stack([tokens[place] for place in places])
            drawn = [draw.to(points.device) for place in places if (draw := draws[place]) is not None]
            picked = self.choice(points, torch.stack(drawn) if drawn else None)
            for place, rows in zip(places, picked, strict=True):
                found[place] = tokens[place][rows]
        return found

    def choice(self, points: Tensor, draw: Tensor | None) -> Tensor:
        """Numbers of the chosen tokens of items of T tokens. Shape: (I, T, D), (I, T) -> (I, clusters) int64"""
        config, clusters = self.config, self.config.clusters or points.shape[1]
        starts = start_points(points.shape[1], clusters, config.restarts, config.cluster_seed).to(points.device)
        return representatives(k_means(points, starts, config.iterations)[0], clusters, draw)
