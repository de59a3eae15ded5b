"""Intervals: their coverage, their clusters, their corner cases."""

import sys
from pathlib import Path

import numpy as np
import pytest

from vidtune.evaluation import statistics
from vidtune.evaluation.metrics.bleu import bleu
from vidtune.evaluation.scores.score_lines import estimate_text
from vidtune.evaluation.statistics import difference_of_sums, mean_difference, of_sums, ratio

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import intervals

FAST = ("50% right, alike 0.3, 10 per video", "difference 0.1 of 60% right, alike 0.3, 10 per video")


def simulate(random, videos: int, per_video: int, spread: float):
    """Right or wrong answers whose chance of being right differs between videos; mean one half."""
    chances = np.clip(0.5 + spread * random.choice([-1, 1], size=videos), 0, 1)
    answers = random.random((videos, per_video)) < chances[:, None]
    clusters = np.repeat(np.arange(videos), per_video)
    return answers.ravel().astype(float).tolist(), clusters.tolist()


@pytest.mark.parametrize("videos", [3, 10])
@pytest.mark.parametrize("kind", [kind for kind in intervals.kinds() if kind.name in FAST], ids=lambda kind: kind.name)
def test_the_interval_covers_the_truth_as_often_as_it_says(kind, videos):
    assert intervals.coverage(kind, videos, repeats=250) >= 0.92


@pytest.mark.whole
@pytest.mark.parametrize("videos", intervals.VIDEOS)
@pytest.mark.parametrize("kind", intervals.kinds(), ids=lambda kind: kind.name)
def test_the_interval_covers_the_truth_for_every_kind_of_score(kind, videos):
    """Standard error 0.008. Few videos, few different values, or nearly all right: wider than it says."""
    cautious = videos <= 7 or kind.skewed
    assert 0.93 - 0.024 <= intervals.coverage(kind, videos, repeats=800) <= (1 if cautious else 0.99)


def test_two_videos_are_too_few_for_an_interval():
    halves = ratio([1, 0, 1, 0], [1] * 4, ["a", "a", "b", "b"])
    assert (halves.value, halves.low, halves.high, halves.clusters) == (0.5, None, None, 2)
    assert estimate_text(halves) == "0.50 [2 videos: too few for an interval]"
    paired = mean_difference([1] * 4, [0] * 4, ["a", "a", "b", "b"])
    assert (paired.value, paired.low, paired.high) == (1.0, None, None)


def test_few_videos_that_differ_tell_little_about_the_spread():
    """Where few of 20 videos differ, the spread is known from these alone, and t is larger."""
    differ = {2: 1.0, 7: -1.0, 11: -1.0}
    found = mean_difference([differ.get(n // 10, 0.0) for n in range(200)], [0.0] * 200, [n // 10 for n in range(200)])
    assert found.value == pytest.approx(-0.05)
    assert found.low < -0.27 and found.high > 0.145


def test_quantiles_of_student():
    for freedom, quantile in [(2, 4.30265), (9, 2.26216), (49, 2.00958), (30_000, 1.96004)]:
        assert statistics._student(freedom) == pytest.approx(quantile, rel=2e-5)


def test_three_videos_alike_are_not_certainty():
    halves = ratio([1, 0] * 3, [1] * 6, list("aabbcc"))
    assert halves.low < 0.15 and halves.high > 0.85
    paired = mean_difference([1] * 6, [0] * 6, list("aabbcc"))
    assert paired.low < 0 and paired.high == 1.0
    same = mean_difference([1, 0] * 50, [1, 0] * 50, [n // 2 for n in range(100)])
    assert same.value == 0 and same.high == pytest.approx(1 - 0.025 ** (1 / 50)) == -same.low


def test_a_corpus_without_one_match_is_not_certainty():
    fours = bleu([["a b c d e"]] * 8, ["v w x y z"] * 8)[3]
    found = of_sums(fours.statistics, fours.from_sums, range(8))
    assert found.value < 1e-4 and found.high > 0.3
    paired = difference_of_sums(fours.statistics, fours.statistics, fours.from_sums, range(8))
    assert paired.low < -0.3 and paired.high > 0.3


def test_bounds_stay_within_what_is_possible_and_follow_the_scale():
    answers, clusters = [1.0] * 19 + [0.0], [n // 4 for n in range(20)]
    found = ratio(answers, [1.0] * 20, clusters)
    assert 0 < found.low < 0.8 and 0.95 < found.high < 1
    fives = ratio([5 * answer for answer in answers], [1.0] * 20, clusters, bounds=(0.0, 5.0))
    assert (fives.low, fives.high) == pytest.approx((5 * found.low, 5 * found.high))
    mirrored = ratio([1 - answer for answer in answers], [1.0] * 20, clusters)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low))


def test_wrong_answers_far_apart_say_that_videos_do_not_differ():
    """Five of 200 wrong, in five videos or in one; apart they are nearly 200 independent answers, a Wilson interval."""
    clusters = [n // 20 for n in range(200)]
    apart = ratio([float(n % 20 > 0 or n >= 100) for n in range(200)], [1.0] * 200, clusters)
    together = ratio([float(n >= 5) for n in range(200)], [1.0] * 200, clusters)
    assert apart.value == together.value == 0.975
    assert 0.915 < apart.low < 0.95 and together.low < 0.85


def test_few_high_values_move_the_upper_bound_out():
    values = [0.1] * 18 + [2.0, 3.0]
    found = ratio(values, [1.0] * 20, range(20), bounds=(0.0, 10.0))
    above, below = found.high - found.value, found.value - found.low
    assert above > 2.9 * below and found.low > 0
    mirrored = ratio([10 - value for value in values], [1.0] * 20, range(20), bounds=(0.0, 10.0))
    assert (10 - mirrored.high, 10 - mirrored.low) == pytest.approx((found.low, found.high))


def test_the_interval_holds_its_value_within_the_possible_range():
    random = np.random.default_rng(3)
    for _ in range(100):
        videos = int(random.integers(3, 8))
        values = random.choice([0.0, 0.2, 1.0], p=random.dirichlet([1, 0.3, 1]), size=4 * videos).tolist()
        found = ratio(values, [1.0] * len(values), [n % videos for n in range(len(values))])
        assert 0 <= found.low <= found.value <= found.high <= 1 and found.low < found.high


def test_values_of_no_known_range_get_a_symmetric_interval():
    found = ratio([40.0, 50.0, 60.0, 70.0], [1.0] * 4, range(4))
    assert found.high - found.value == pytest.approx(found.value - found.low) and found.low > 20
    assert ratio([40.0] * 4, [1.0] * 4, range(4)).low is None


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
    assert estimate.low == pytest.approx(0.3 - margin, abs=0.002)
    assert estimate.high == pytest.approx(0.3 + margin, abs=0.002)


def test_questions_that_cannot_count_are_in_no_video():
    counted = ratio([1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0], ["a", "b", "c", "d"])
    assert counted == ratio([1.0, 0.0, 1.0], [1.0] * 3, ["a", "b", "c"])


def test_all_right_is_not_certainty():
    estimate = ratio([1.0] * 40, [1.0] * 40, [n % 10 for n in range(40)])
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(0.025 ** (1 / 10))
    none_right = ratio([0.0] * 40, [1.0] * 40, [n % 10 for n in range(40)])
    assert none_right.high == pytest.approx(1 - 0.025 ** (1 / 10)) and none_right.low == 0.0


def test_one_video_gives_no_interval_and_nothing_gives_no_value():
    estimate = ratio([1.0, 0.0], [1.0, 1.0], ["a", "a"])
    assert (estimate.value, estimate.low, estimate.high) == (0.5, None, None)
    assert ratio([], [], []) is None
    assert ratio([0.0], [0.0], ["a"]) is None


def test_pairing_removes_what_both_runs_share():
    random = np.random.default_rng(5)
    first, clusters = simulate(random, videos=40, per_video=5, spread=0.45)
    second = [answer if random.random() < 0.9 else 0.0 for answer in first]
    paired = mean_difference(first, second, clusters)
    ones = [1.0] * len(first)
    one, two = ratio(first, ones, clusters), ratio(second, ones, clusters)
    assert paired.value == pytest.approx(one.value - two.value)
    assert paired.high - paired.low < 0.5 * (one.high - one.low)
    assert paired.low > 0
