"""K-means that chooses a few points out of many; the same choice on every device.

Legend: I items, T points of an item, D width, M clusters, R restarts.
Source: the package torch-kmeans 0.2.0, whose labels these are.
"""

from functools import lru_cache

import torch
from torch import Tensor

CONVERGED = 1e-4
"""Centres that moved less than this, on average, in all restarts are not moved again."""


@lru_cache
def start_points(points: int, clusters: int, restarts: int, seed: int) -> Tensor:
    """Points at which the clusters start, on the CPU. Shape: (restarts, clusters) int64, distinct in each restart"""
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(torch.full((restarts, points), 1 / points), clusters, generator=generator)


@torch.no_grad()
def k_means(points: Tensor, starts: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    """Clusters of points by Lloyd's algorithm, the best of several restarts; computed in float32, under autocast too.

    The centre of a cluster that has lost all its points becomes zero.

    Args:
        starts: see :func:`start_points`.
        iterations: most steps.

    Shape: (I, T, D), (R, M) -> labels (I, T) int64, centres (I, M, D), sum of squared distances (I,)
    """
    with torch.autocast(points.device.type, enabled=False):  # it would round the centres
        return _lloyd(points.float(), starts, iterations)


def _lloyd(points: Tensor, starts: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    centres = points[:, starts]  # (I, R, M, D)
    moving = torch.ones(len(points), 1, 1, 1, dtype=torch.bool, device=points.device)
    for _ in range(iterations):
        labels = _distances(points, centres).argmin(-1)
        member = _members(labels, starts.shape[1]).to(points.dtype)  # (I, R, M, T)
        means = member @ points[:, None] / member.sum(3, keepdim=True).clamp(min=1)
        shift = (means - centres).norm(dim=-1).mean(-1)
        centres = torch.where(moving, means, centres)
        moving = moving & (shift >= CONVERGED).any(1)[:, None, None, None]
    distances, labels = _distances(points, centres).min(-1)
    # Infinite terms count as zero, as in the source; a restart that is not a number never wins.
    inertia = distances.square().nan_to_num(nan=torch.inf, posinf=0.0).sum(-1)  # (I, R)
    best = inertia.argmin(1)
    chosen = torch.arange(len(points), device=points.device), best
    return labels[chosen], centres[chosen], inertia[chosen]


def _members(labels: Tensor, clusters: int) -> Tensor:
    """Whether a point is in a cluster. Shape: (*, T) -> (*, M, T)"""
    # one_hot would look at the labels, and so wait for the device.
    return labels[..., None, :] == torch.arange(clusters, device=labels.device)[:, None]


def _distances(points: Tensor, centres: Tensor) -> Tensor:
    """Shape: (I, T, D), (I, R, M, D) -> (I, R, T, M)"""
    return torch.nn.functional.pairwise_distance(points[:, None, :, None], centres[:, :, None])


def representatives(labels: Tensor, clusters: int, draw: Tensor | None = None) -> Tensor:
    """One point of each cluster, in the order of the points; where clusters are empty, the last chosen repeatedly.

    Args:
        labels: cluster of each point.
        draw: number from 0 to 1 for each cluster, which chooses among its members; None: its first member.

    Shape: (I, T) int64, (I, at least M) -> (I, M) int64
    """
    member = _members(labels, clusters)  # (I, M, T)
    sizes = member.sum(-1)
    wanted = torch.zeros_like(sizes) if draw is None else (draw[:, :clusters] * sizes).long().clamp(max=sizes - 1)
    picked = (member & (member.cumsum(-1) - 1 == wanted[..., None])).long().argmax(-1)
    present = sizes > 0
    last = (present * torch.arange(clusters, device=labels.device)).amax(1, keepdim=True)
    return torch.where(present, picked, picked.gather(1, last)).sort(1).values
