"""Measure how often the 95 % intervals of scores contain the truth, by simulation.

A population of videos is drawn for every kind of score; runs of 3 to 50 of its videos are scored, and counted when the
interval contains the value of the population. ``python benchmarks/intervals.py [REPEATS]`` prints a table; the default
of 2000 takes an hour or so on a busy machine and has a standard error of 0.005.

Coverage cannot be 0.95 everywhere: three videos with few questions give few different values, and near 0 and 1 most
samples hold no sign of the rare videos. Intervals are wider there.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from vidtune.evaluation.metrics.bleu import bleu_of_sums
from vidtune.evaluation.statistics import Estimate, difference_of_sums, mean_difference, of_sums, ratio

VIDEOS = (3, 5, 7, 10, 20, 50)
Sample = Callable[[np.random.Generator, int], Estimate | None]


@dataclass(frozen=True)
class Kind:
    """One kind of score.

    Args:
        name: what is simulated.
        truth: value of the population.
        sample: (random numbers, number of videos) -> a value with its interval.
        skewed: nearly all answers are right, or wrong; or there are few different values: one question per video.
    """

    name: str
    truth: float
    sample: Sample
    skewed: bool = False


def right_or_wrong(mean: float, alike: float, questions: int, unequal: float = 0.0) -> Kind:
    """Right answers over answers; the chance of being right differs between videos by a beta distribution.

    Args:
        alike: correlation of two answers about one video, 0 to 1.
        questions: mean number of questions per video.
        unequal: standard deviation of the logarithm of that number.
    """

    def sample(random: np.random.Generator, videos: int) -> Estimate | None:
        return _answered(random, _sizes(random, videos, questions, unequal), mean, alike)

    spread = f", sizes ±{unequal:g}" if unequal else ""
    skewed = not 0.1 < mean < 0.9 or questions == 1 or alike == 1
    return Kind(f"{mean:.0%} right, alike {alike:g}, {questions} per video{spread}", mean, sample, skewed)


def one_or_twenty(mean: float, alike: float) -> Kind:
    """Right answers over answers, with 20 questions about one video in five, and one about each other."""

    def sample(random: np.random.Generator, videos: int) -> Estimate | None:
        return _answered(random, np.where(random.random(videos) < 0.2, 20, 1), mean, alike)

    return Kind(f"{mean:.0%} right, alike {alike:g}, 1 or 20 per video", mean, sample, not 0.1 < mean < 0.9)


def long_tailed(mean: float, alike: float) -> Kind:
    """Right answers over answers; the number of questions about a video has a Pareto distribution of shape 1.5."""

    def sample(random: np.random.Generator, videos: int) -> Estimate | None:
        sizes = np.minimum(200, np.ceil(2 * (1 + random.pareto(1.5, size=videos)))).astype(int)
        return _answered(random, sizes, mean, alike)

    return Kind(f"{mean:.0%} right, alike {alike:g}, Pareto-distributed numbers per video", mean, sample)


def difference(mean: float, gain: float, alike: float, questions: int) -> Kind:
    """Right answers of one run minus those of another, which share the difficulty of the videos."""

    def sample(random: np.random.Generator, videos: int) -> Estimate | None:
        sizes = _sizes(random, videos, questions, 0.3)
        shared = np.repeat(_chances(random, videos, mean, alike), sizes)
        hard = random.random(len(shared))
        first = (hard < shared).astype(float)
        lost = random.random(len(shared)) < np.repeat(_chances(random, videos, gain / mean, 0.2), sizes)
        second = np.where(lost, 0.0, first)
        return mean_difference(first.tolist(), second.tolist(), _clusters(sizes))

    return Kind(
        f"difference {gain:g} of {mean:.0%} right, alike {alike:g}, {questions} per video", gain, sample, gain <= 0.1
    )


def discordant(won: float, lost: float, alike: float, questions: int) -> Kind:
    """Difference between two runs that differ in few answers, some won and some lost.

    Args:
        alike: correlation of two answers about one video, in whether the runs differ and in which of them is right.
    """
    both = won + lost

    def sample(random: np.random.Generator, videos: int) -> Estimate | None:
        sizes = np.full(videos, questions)
        differ = np.repeat(_chances(random, videos, both, alike), sizes)
        wins = np.repeat(_chances(random, videos, won / both, alike), sizes)
        values = np.where(random.random(len(wins)) < wins, 1.0, -1.0) * (random.random(len(wins)) < differ)
        return mean_difference(values.tolist(), [0.0] * len(values), _clusters(sizes))

    name = f"difference {won:.0%} won, {lost:.0%} lost, alike {alike:g}, {questions} per video"
    return Kind(name, won - lost, sample, both < 0.15)


def overlap(mean: float, alike: float, questions: int) -> Kind:
    """Mean of values between 0 and 1 such as IoU; a third of them is 0."""

    def sample(random: np.random.Generator, videos: int) -> Estimate | None:
        sizes = _sizes(random, videos, questions, 0.5)
        chances = np.repeat(_chances(random, videos, mean, alike), sizes)
        values = np.round(random.beta(4 * chances + 1e-3, 4 * (1 - chances) + 1e-3), 2)
        values[random.random(len(values)) < 1 / 3] = 0.0
        return ratio(values.tolist(), [1.0] * len(values), _clusters(sizes))

    return Kind(f"IoU of mean {mean * 2 / 3:.2f}, alike {alike:g}, {questions} per video", mean * 2 / 3, sample)


def points(mean: float, alike: float, questions: int) -> Kind:
    """Mean score of a judge, 0 to 5."""

    def sample(random: np.random.Generator, videos: int) -> Estimate | None:
        sizes = _sizes(random, videos, questions, 0.3)
        given = random.binomial(5, np.repeat(_chances(random, videos, mean / 5, alike), sizes)).astype(float)
        return ratio(given.tolist(), [1.0] * len(given), _clusters(sizes), bounds=(0.0, 5.0))

    return Kind(f"average score {mean:g} of 5, alike {alike:g}, {questions} per video", mean, sample)


def captions(mean: float, between: float, within: float, questions: int) -> Kind:
    """Mean of values between 0 and 10 such as CIDEr: most are low, a few high.

    Args:
        between, within: shapes of the gamma distributions of videos and of captions; the smaller, the more skewed.
    """

    def sample(random: np.random.Generator, videos: int) -> Estimate | None:
        sizes = np.full(videos, questions)
        means = np.repeat(mean * random.gamma(between, 1 / between, size=videos), sizes)
        values = means * random.gamma(within, 1 / within, size=len(means))
        return ratio(values.tolist(), [1.0] * len(values), _clusters(sizes), bounds=(0.0, 10.0))

    return Kind(f"CIDEr of mean {mean:g}, gamma {between:g} and {within:g}, {questions} per video", mean, sample)


def corpus(questions: int, paired: bool) -> Kind:
    """BLEU-4 of captions, or its difference between two runs; the value of a large sample stands for the population."""
    from_sums = bleu_of_sums(4)

    def rows(random: np.random.Generator, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chances = np.repeat(_chances(random, len(sizes), 0.4, 0.15), sizes)
        words = random.integers(6, 15, size=len(chances))
        both = []
        for chance in (chances, 0.8 * chances):
            totals = words[:, None] - np.arange(4)
            matches = [random.binomial(totals[:, 0], chance)]
            for order in range(1, 4):
                matches.append(random.binomial(np.minimum(matches[-1], totals[:, order]), 0.3 + chance / 2))
            both.append(np.column_stack([words, words + random.integers(-1, 3, len(words)), *matches, totals]))
        return both[0].astype(float), both[1].astype(float)

    first, second = rows(np.random.default_rng(1), np.full(20_000, questions))
    one, two = (float(from_sums(part.sum(axis=0))) for part in (first, second))

    def sample(random: np.random.Generator, videos: int) -> Estimate | None:
        sizes = _sizes(random, videos, questions, 0.3)
        first, second = rows(random, sizes)
        if paired:
            return difference_of_sums(first, second, from_sums, _clusters(sizes))
        return of_sums(first, from_sums, _clusters(sizes))

    name = f"BLEU-4 {'difference ' if paired else ''}{100 * (one - two if paired else one):.0f} %"
    return Kind(f"{name}, {questions} per video", one - two if paired else one, sample)


@cache
def kinds() -> tuple[Kind, ...]:
    return (
        *(right_or_wrong(0.5, alike, 10) for alike in (0.0, 0.1, 0.3, 0.6, 1.0)),
        *(right_or_wrong(0.7, 0.2, questions) for questions in (3, 10, 25)),
        *(right_or_wrong(mean, alike, 10) for mean in (0.05, 0.15, 0.85, 0.95) for alike in (0.0, 0.1, 0.5)),
        *(right_or_wrong(mean, 0.0, 1) for mean in (0.5, 0.85)),
        right_or_wrong(0.05, 0.02, 20),
        *(right_or_wrong(0.6, 0.2, 10, unequal) for unequal in (0.5, 1.0)),
        right_or_wrong(0.6, 0.8, 10, 1.0),
        right_or_wrong(0.6, 0.3, 2, 0.5),
        *(one_or_twenty(mean, 0.3) for mean in (0.4, 0.9)),
        *(long_tailed(0.6, alike) for alike in (0.3, 0.8)),
        right_or_wrong(0.98, 0.8, 15),
        difference(0.6, 0.1, 0.3, 10),
        difference(0.6, 0.3, 0.3, 10),
        difference(0.9, 0.05, 0.1, 10),
        discordant(0.03, 0.03, 0.0, 10),
        discordant(0.04, 0.08, 0.5, 12),
        discordant(0.2, 0.1, 0.1, 5),
        discordant(0.05, 0.02, 0.1, 20),
        overlap(0.5, 0.1, 8),
        *(points(mean, 0.2, 10) for mean in (3.5, 4.5)),
        points(4.5, 0.25, 5),
        points(4.75, 0.2, 6),
        captions(0.3, 1.5, 0.7, 4),
        captions(0.3, 4, 0.5, 2),
        captions(0.5, 1, 1, 8),
        captions(0.8, 2, 1, 5),
        corpus(8, paired=False),
        corpus(8, paired=True),
    )


def coverage(kind: Kind, videos: int, repeats: int, seed: int = 0) -> float:
    """Share of samples of this many videos whose interval contains the truth."""
    random = np.random.default_rng(seed)
    found = [kind.sample(random, videos) for _ in range(repeats)]
    return float(np.mean([one is not None and _contains(one, kind.truth) for one in found]))


def _contains(estimate: Estimate, truth: float) -> bool:
    return estimate.low is not None and estimate.high is not None and estimate.low <= truth <= estimate.high


def _answered(random: np.random.Generator, sizes: np.ndarray, mean: float, alike: float) -> Estimate | None:
    chances = np.repeat(_chances(random, len(sizes), mean, alike), sizes)
    answers = (random.random(len(chances)) < chances).astype(float)
    return ratio(answers.tolist(), [1.0] * len(answers), _clusters(sizes))


def _chances(random: np.random.Generator, videos: int, mean: float, alike: float) -> np.ndarray:
    """Shape: -> (videos,)"""
    if alike == 0:
        return np.full(videos, mean)
    if alike == 1:
        return (random.random(videos) < mean).astype(float)
    weight = 1 / alike - 1
    return random.beta(mean * weight, (1 - mean) * weight, size=videos)


def _sizes(random: np.random.Generator, videos: int, questions: int, unequal: float) -> np.ndarray:
    """Numbers of questions per video. Shape: -> (videos,)"""
    drawn = questions * np.exp(random.normal(0.0, unequal, size=videos) - unequal**2 / 2)
    return np.maximum(1, np.round(drawn)).astype(int)


def _clusters(sizes: np.ndarray) -> list[int]:
    return np.repeat(np.arange(len(sizes)), sizes).tolist()


def _lines(repeats: int) -> Iterator[str]:
    yield f"{'videos':66}" + "".join(f"{videos:7}" for videos in VIDEOS)
    for kind in kinds():
        yield f"{kind.name:66}" + "".join(f"{coverage(kind, videos, repeats):7.3f}" for videos in VIDEOS)


if __name__ == "__main__":
    for line in _lines(int(sys.argv[1]) if len(sys.argv) > 1 else 2000):
        print(line, flush=True)
