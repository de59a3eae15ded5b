"""Intervals: their coverage, their clusters, their corner cases."""

import numpy as np
import pytest

from vidtune.evaluation.statistics import mean_difference, ratio


def simulate(random, videos: int, per_video: int, spread: float):
    """Right or wrong answers whose chance of being right differs between videos; mean one half."""
    chances = np.clip(0.5 + spread * random.choice([-1, 1], size=videos), 0, 1)
    answers = random.random((videos, per_video)) < chances[:, None]
    clusters = np.repeat(np.arange(videos), per_video)
    return answers.ravel().astype(float).tolist(), clusters.tolist()


def test_the_interval_covers_the_truth_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr("vidtune.evaluation.statistics.RESAMPLES", 400)
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(200):
        answers, clusters = simulate(random, videos=40, per_video=8, spread=0.4)
        estimate = ratio(answers, [1.0] * len(answers), clusters)
        covered += estimate.low <= 0.5 <= estimate.high
    assert 0.89 <= covered / 200 <= 0.99


def test_questions_of_one_video_do_not_count_as_independent():
    answers, clusters = simulate(np.random.default_rng(0), videos=30, per_video=20, spread=0.4)
    ones = [1.0] * len(answers)
    clustered, independent = ratio(answers, ones, clusters), ratio(answers, ones, range(len(answers)))
    assert clustered.value == independent.value
    assert clustered.high - clustered.low > 2 * (independent.high - independent.low)
    assert (clustered.clusters, independent.clusters) == (30, 600)


def test_unclustered_interval_agrees_with_the_normal_one():
    answers = [1.0] * 300 + [0.0] * 700
    estimate = ratio(answers, [1.0] * 1000, range(1000))
    margin = 1.96 * (0.3 * 0.7 / 1000) ** 0.5
    assert estimate.low == pytest.approx(0.3 - margin, abs=0.004)
    assert estimate.high == pytest.approx(0.3 + margin, abs=0.004)


def test_the_same_data_gives_the_same_interval():
    answers, clusters = simulate(np.random.default_rng(3), videos=20, per_video=5, spread=0.2)
    first, second = (ratio(answers, [1.0] * len(answers), clusters) for _ in range(2))
    assert first == second


def test_all_right_is_not_certainty():
    estimate = ratio([1.0] * 40, [1.0] * 40, [n % 10 for n in range(40)], bounds=(0.0, 1.0))
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(0.025 ** (1 / 10))
    none_right = ratio([0.0] * 40, [1.0] * 40, [n % 10 for n in range(40)], bounds=(0.0, 1.0))
    assert none_right.high == pytest.approx(1 - 0.025 ** (1 / 10)) and none_right.low == 0.0


def test_one_video_gives_no_interval_and_nothing_gives_no_value():
    estimate = ratio([1.0, 0.0], [1.0, 1.0], ["a", "a"])
    assert (estimate.value, estimate.low, estimate.high) == (0.5, None, None)
    assert ratio([], [], []) is None
    assert ratio([0.0], [0.0], ["a"]) is None


def test_pairing_removes_what_both_runs_share():
    random = np.random.default_rng(5)
    first, clusters = simulate(random, videos=40, per_video=5, spread=0.45)
    second = [answer if random.random() < 0.95 else 0.0 for answer in first]
    paired = mean_difference(first, second, clusters)
    ones = [1.0] * len(first)
    one, two = ratio(first, ones, clusters), ratio(second, ones, clusters)
    assert paired.value == pytest.approx(one.value - two.value)
    assert paired.high - paired.low < 0.5 * (one.high - one.low)
    assert paired.low > 0
