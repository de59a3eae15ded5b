"""MME: two questions about each picture, points for each right answer and more if both are right.

Fu et al., MME, arXiv:2306.13394. A category is worth the mean over its pictures of accuracy (50 points for each right
answer) and accuracy+ (100 points if both are right), 200 at most.

Legend: T categories.
"""

from collections.abc import Callable, Sequence

import numpy as np

from vidtune.evaluation.metrics.base import mean_of_sums

PER_PICTURE = 2
PERCEPTION = (
    *("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
HIGHEST = 200.0


def rows_of_picture(right: Sequence[bool]) -> list[tuple[float, float]]:
    """The two questions of a picture as (points, pictures): half of the picture each. Their sums give its points."""
    both = all(right)
    return [(50.0 * good + 50.0 * both, 0.5) for good in right]


def sum_of_categories(kinds: Sequence[str], counted: Sequence[str]) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the sum of the values of some categories. Shape: (..., 2 T) -> (...)

    Args:
        kinds: categories of the sums, in their order.
        counted: those that are added.
    """
    places = [place for place, kind in enumerate(kinds) if kind in counted]

    def total(sums: np.ndarray) -> np.ndarray:
        parts = sums.reshape(*sums.shape[:-1], -1, 2)[..., places, :]
        points, pictures = parts[..., 0], parts[..., 1]
        return np.divide(points, pictures, out=np.zeros_like(points), where=pictures > 0).sum(-1)

    return total


points_of = mean_of_sums
"""Shape: (..., 2) -> (...), sums of `rows_of_picture`."""
