"""K-means and the points that stand for its clusters."""

import pytest
import torch

from vidtune.models.connectors.clustering import k_means, representatives, start_points


def test_starts_are_the_same_draw_each_time_and_distinct():
    starts = start_points(8, 4, 16, seed=5)
    assert torch.equal(starts, start_points.__wrapped__(8, 4, 16, seed=5))
    assert all(len(set(row.tolist())) == 4 for row in starts)
    assert not torch.equal(starts, start_points(8, 4, 16, seed=6))


def test_separate_groups_are_found_whatever_stands_beside_the_item():
    torch.manual_seed(0)
    wanted = torch.tensor([0, 1, 1, 2, 0, 2, 2])
    points = torch.randn(3, 5)[wanted] * 10 + torch.randn(7, 5) * 0.01
    alone = k_means(points[None], start_points(7, 3, 8, seed=1), 3)
    assert torch.equal(alone[0][0][:, None] == alone[0][0], wanted[:, None] == wanted)
    together = k_means(torch.stack([torch.randn(7, 5), points]), start_points(7, 3, 8, seed=1), 3)
    for one, both in zip(alone, together, strict=True):
        assert torch.equal(one[0], both[1])


def test_autocast_changes_no_choice():
    torch.manual_seed(0)
    points = torch.randn(100, 1, 32) + torch.randn(100, 8, 32).cumsum(1) * 0.05  # boxes of a track are alike
    starts = start_points(8, 4, 8, seed=1)
    plain = k_means(points, starts, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, k_means(points, starts, 3), plain))


def test_equal_points_are_one_cluster():
    labels, _, inertia = k_means(torch.ones(1, 6, 3), start_points(6, 4, 8, seed=1), 3)
    assert labels.unique().tolist() == [0] and float(inertia) < 1e-9
    assert representatives(labels, 4).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("labels", "draw", "expected"),
    [
        ([3, 1, 1, 0, 2, 3], None, [0, 1, 3, 4]),
        ([3, 1, 1, 0, 2, 3], [0.1, 0.6, 0.9, 0.5, 0.0, 0.0], [2, 3, 4, 5]),
        ([3, 1, 1, 0, 2, 3], [1.0, 0.49, 0.9, 0.49, 0.0, 0.0], [0, 1, 3, 4]),
        # Labels 1 and 3 are empty: the last chosen point, that of label 2, stands for them.
        ([2, 0, 0, 2, 2], None, [0, 0, 0, 1]),
        ([2, 0, 0, 2, 2], [0.5, 0.0, 0.99, 0.0, 0.0], [2, 4, 4, 4]),
    ],
)
def test_one_point_stands_for_each_cluster(labels, draw, expected):
    drawn = None if draw is None else torch.tensor([draw])
    assert representatives(torch.tensor([labels]), 4, drawn).tolist() == [expected]
