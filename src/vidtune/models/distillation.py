"""Distillation inside the language model: hidden states at media positions are trained towards a teacher's features.

The student is any tower with ``token_grids``; the teacher is any tower with one token per patch of a square. The
alignment head, which maps hidden states to features of the teacher, belongs to the model; the teacher does not.

Legend: L tokens of a pack, D language-model width, J chosen layers, N aligned tokens, C teacher width, T frames, P
patches of a teacher's frame, h heads.
Source: arXiv:2412.18609; the head comes from EVE (arXiv:2406.11832).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vidtune.models.initial import NormalLinear
from vidtune.models.letterbox import letterbox
from vidtune.models.towers.clip import ClipTowerConfig
from vidtune.models.towers.token_grid import TokenGrid, whole_frames
from vidtune.processing.batch import on_device


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """Sizes of an alignment head.

    Args:
        input_size: language-model width D.
        output_size: teacher width C.
        layers: indices of the hidden states that are fused, 0 being the embeddings. The first one is the query, the
            others are keys and values.
        num_heads: number of heads of the attention over layers.
    """

    input_size: int
    output_size: int
    layers: tuple[int, ...]
    num_heads: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if self.output_size % self.num_heads:
            raise ValueError(f"the teacher's width {self.output_size} does not divide into {self.num_heads} heads")
        if len(self.layers) < 2:
            raise ValueError(f"layers {self.layers}: one hidden state asks and at least one other answers")

    def build(self) -> "AlignmentHead":
        return AlignmentHead(self)


def every_fourth_layer(num_layers: int) -> tuple[int, ...]:
    """Indices of the last hidden state and every fourth one before it: 32, 28, ..., 0."""
    return tuple(range(num_layers, -1, -4))


class AlignmentHead(nn.Module):
    """Fuses the hidden states of several layers into a prediction of the teacher's feature of the same position.

    Attention runs over layers, for each token alone: the last of the chosen layers is the query, the earlier ones are
    keys and values. The logits are scaled by the full width and not by the width of a head, because the published
    weights were trained so.

    Shape: (J, N, D) -> (N, C)
    """

    def __init__(self, config: AlignmentConfig) -> None:
        super().__init__()
        self.config = config
        width = config.input_size
        self.layer_proj = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), NormalLinear(width, config.output_size, bias=False))
            for _ in config.layers
        )
        self.input_proj = NormalLinear(width, config.output_size)
        self.output_proj = NormalLinear(config.output_size, config.output_size)

    def forward(self, states: Tensor) -> Tensor:
        query, *keys = (proj(state) for proj, state in zip(self.layer_proj, states, strict=True))
        heads = (-1, self.config.num_heads, self.config.output_size // self.config.num_heads)
        layers = torch.stack(keys, dim=1).unflatten(2, heads[1:])
        logits = torch.einsum("nhd,njhd->njh", query.view(heads), layers) * self.config.output_size**-0.5
        fused = torch.einsum("njh,njhd->nhd", logits.softmax(dim=1), layers).flatten(1)
        return self.input_proj(states[0]) + self.output_proj(fused)


def alignment_losses(student: Tensor, teacher: Tensor, lengths: Sequence[int]) -> Tensor:
    """One minus the mean cosine similarity of the tokens of each frame.

    Args:
        student, teacher: (N, C), the tokens of all frames in order.
        lengths: number of tokens of each frame.

    Shape: -> (len(lengths),) float32
    """
    similarity = functional.cosine_similarity(student.float(), teacher.float(), dim=-1, eps=1e-8)
    return torch.stack([1.0 - frame.mean() for frame in similarity.split(list(lengths))])


def teacher_tokens(features: Tensor, grid: TokenGrid) -> Tensor:
    """Features of the teacher for the cells that the tokens of a frame show; averaged if its patches are finer.

    Shape: features (P, C) of the whole square, row by row -> (height * width, C)
    Raises:
        ValueError: the patches of the teacher do not divide the cells of the student.
    """
    side = isqrt(len(features))
    if side * side != len(features) or side % grid.side:
        raise ValueError(
            f"{len(features)} teacher features per frame do not divide into a square of {grid.side} x {grid.side} cells"
        )
    if side > grid.side:
        square = features.T.reshape(1, -1, side, side)
        features = functional.avg_pool2d(square, side // grid.side)[0].flatten(1).T
    return features[grid.cells().to(features.device)]


def aligned_loss(
    head: AlignmentHead,
    hidden_states: Sequence[Tensor],
    places: Sequence[np.ndarray],
    grids: Sequence[Sequence[TokenGrid]],
    teacher: Sequence[Tensor],
) -> tuple[Tensor, int]:
    """Alignment loss of the media items of one stream, summed over their frames.

    Frames that a clip lacks, and frames whose tokens are not all in the prompt, do not count.

    Args:
        head: the alignment head of the stream.
        hidden_states: all hidden states of the language model, (1, L, D) each, the embeddings first.
        places: for every item, the positions of its tokens in the pack.
        grids: for every item, the token grid of each of its frames.
        teacher: for every item, features of the teacher (number of frames or more, P, C).

    Returns:
        The sum of the losses of the frames (float32 scalar; zero with a graph to the head if there are no frames), and
        the number of frames. Sum and number are added over all packs of a step before dividing, so that the quotient
        does not depend on how samples were packed.
    """
    positions, targets, lengths = [], [], []
    for place, frames, features in zip(places, grids, teacher, strict=True):
        # Tokens are in the order of frames, so the frames that are left out come last.
        for grid, frame in zip(whole_frames(frames, len(place)), features, strict=False):
            positions.append(place[grid.tokens().numpy()])
            targets.append(teacher_tokens(frame, grid))
            lengths.append(len(positions[-1]))
    chosen = [hidden_states[layer][0] for layer in head.config.layers]
    if not lengths:
        return 0.0 * head(torch.stack([state[:1].detach() for state in chosen])).float().sum(), 0
    index = on_device(np.concatenate(positions), chosen[0].device)
    student = head(torch.stack([state[index] for state in chosen]))
    return alignment_losses(student, torch.cat(targets).detach(), lengths).sum(), len(lengths)


class Teacher(nn.Module):
    """A frozen tower that encodes the clips of the student, on a square of its own size.

    It always stays in eval mode and has no gradients. It is not a part of the model, so no checkpoint contains it.

    Args:
        config: config of a tower with one token per patch, such as a video tower with attention over time.
        cell: side of one cell of the student's square, in pixels of the teacher.
        color: colour around a picture, normalised as pixels are, (3,).

    Shape: list of (3, frames, h, w), or of pictures (3, h, w) -> list of (T, P, C)
    """

    color: Tensor

    def __init__(self, config: ClipTowerConfig, *, cell: int, color: Sequence[float]) -> None:
        super().__init__()
        self.config, self.cell = config, cell
        self.tower = config.build()
        self.register_buffer("color", torch.tensor(color), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)

    @torch.no_grad()
    def forward(self, clips: Sequence[Tensor]) -> list[Tensor]:
        frames = self.config.num_frames or 1
        dtype = self.tower.embeddings.patch_embedding.weight.dtype
        clips = [clip.to(dtype) if clip.dim() == 4 else clip.to(dtype).unsqueeze(1) for clip in clips]
        squares = [letterbox(clip, self.config.image_size, self.cell, frames, self.color) for clip in clips]
        return list(self.tower(torch.stack(squares)).unflatten(1, (frames, -1)))
