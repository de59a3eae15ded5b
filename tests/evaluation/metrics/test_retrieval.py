"""Retrieval against cases counted by hand; equal similarities get what guessing gets."""

import numpy as np
import pytest

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.measured import Item
from vidtune.evaluation.benchmarks.own.finding import benchmark_named
from vidtune.evaluation.metrics.retrieval import EXACT_RANKS, Ranks, median_rank, rank_rows, vectors_of, written_vectors

PAIR = '{"video": "a.mp4", "caption": "a"}'


def test_ranks_counted_by_hand() -> None:
    similarities = np.array([[0.9, 0.1, 0.3], [0.2, 0.1, 0.3], [0.4, 0.8, 0.5]])
    ranks = Ranks.of(similarities, np.eye(3, dtype=bool))
    assert ranks.rank().tolist() == [1, 3, 2]
    assert [ranks.recall(k).tolist() for k in (1, 2, 3)] == [[1, 0, 0], [1, 0, 1], [1, 1, 1]]
    assert median_rank(rank_rows(ranks.rank()).sum(0)) == 2


def test_the_best_of_several_right_ones_counts() -> None:
    ranks = Ranks.of(np.array([[0.1, 0.7, 0.5, 0.9]]), np.array([[True, False, True, False]]))
    assert ranks.rank().tolist() == [3] and ranks.recall(3).tolist() == [1] and ranks.recall(2).tolist() == [0]


def test_equal_similarities_are_guessing() -> None:
    ranks = Ranks.of(np.zeros((4, 4)), np.eye(4, dtype=bool))
    assert ranks.rank().tolist() == [2.5] * 4
    for k in (1, 2, 3, 4):
        np.testing.assert_allclose(ranks.recall(k), k / 4)
    two_of_five = Ranks.of(np.zeros((1, 5)), np.array([[True, True, False, False, False]]))
    np.testing.assert_allclose([float(two_of_five.recall(k)[0]) for k in (1, 2, 3, 4)], [0.4, 0.7, 0.9, 1.0])
    assert two_of_five.rank().tolist() == [2.0]  # mean of the first of two places drawn from five


def test_median_rank_of_an_even_number_and_of_large_ranks() -> None:
    assert median_rank(rank_rows(np.array([1, 2, 4, 7])).sum(0)) == 3
    assert median_rank(rank_rows(np.array([EXACT_RANKS] * 3)).sum(0)) == EXACT_RANKS
    assert float(median_rank(rank_rows(np.array([1000.0] * 3)).sum(0))) == pytest.approx(1000, rel=0.08)


def test_vectors_are_written_without_loss() -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    read = vectors_of(written_vectors(one, other))
    for vector, wanted in zip(read, (one, other), strict=True):
        np.testing.assert_allclose(vector, wanted / np.linalg.norm(wanted.astype(float)), rtol=1e-7)
    assert vectors_of("a red box") is None and vectors_of(written_vectors(one, other[:3])) is None


def test_a_set_of_pairs_counts_media_once_and_every_caption(tmp_path) -> None:
    lines = [
        '{"video": "a.mp4", "caption": "a"}',
        '{"video": "a.mp4", "caption": "b"}',
        '{"video": "c.mp4", "caption": "c"}',
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(lines))
    axes = np.eye(3, dtype=np.float32)
    said = [written_vectors(axes[0], axes[0]), written_vectors(axes[0], axes[1]), written_vectors(axes[1], axes[1])]
    items = [
        Item(place, str(place + 1), video, "", {}, pred)
        for place, (video, pred) in enumerate(zip(("a.mp4", "a.mp4", "c.mp4"), said, strict=True))
    ]
    values = benchmark_named(str(file)).measure(items).official[""].metrics
    assert values["R@1, text to video"].value == pytest.approx(2 / 3)  # the second caption finds c.mp4
    assert values["R@1, video to text"].value == pytest.approx((1 + 0.5) / 2)  # c.mp4 is as near to b as to c
    assert values["median rank, text to video"].value == 1
    strict = benchmark_named(str(file)).measure([*items[:2], Item(2, "3", "c.mp4", "", {}, None)]).strict[""].metrics
    assert strict["R@5, text to video"].value == pytest.approx(2 / 3)
    assert strict["R@5, video to text"].value == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['{"video": "a.mp4", "caption": ""}'], "'caption' is empty"),
        (['{"caption": "a"}'], "has no 'video' or 'image'"),
        (['{"video": "a.mp4", "caption": "a", "question": "b"}'], "has 'caption' and 'question'"),
        (
            ['{"video": "a.mp4", "caption": "a"}', '{"video": "a.mp4", "question": "b", "answer": "c"}'],
            "has no 'caption', as",
        ),
        ([PAIR, '{"video": "b.mp4", "caption": "a"}'], "have one caption, 'a'"),
        ([PAIR, '{"video": "a.mp4", "caption": "b"}'], "have one file, 'a.mp4'"),
    ],
)
def test_what_cannot_be_found_is_refused(lines: list[str], said: str, tmp_path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(lines))
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=said):
        benchmark_named(str(file)).load(tmp_path)
