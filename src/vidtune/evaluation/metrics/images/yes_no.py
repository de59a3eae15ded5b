"""Yes or no: what an answer says by the rules of POPE and MME, and the metrics computed from that.

Legend: T categories.

====  ================================================================================================================
POPE  text before the first period, without commas: "No", "no" or "not" as a word is no, anything else is yes
MME   the whole answer, or its first four characters, contain "yes", else "no"; or it is the letter y or n alone
====  ================================================================================================================
"""

from collections.abc import Callable

import numpy as np

YES, NO, OTHER = "yes", "no", "other"
_NEGATIVE = ("No", "no", "not")
_SEEN_BY_MME = 4


def said_in_pope(answer: str) -> str:
    """Returns "yes" or "no": an answer without a negative word is yes, an empty one too."""
    words = answer.split(".", 1)[0].replace(",", "").split(" ")
    return NO if any(word in _NEGATIVE for word in words) else YES


def said_in_mme(answer: str) -> str:
    """Returns "yes", "no" or "other"."""
    text = answer.lower().strip().replace(".", "")
    if text in (YES, NO):
        return text
    if len(text) == 1:
        return {"y": YES, "n": NO}.get(text, OTHER)
    return next((word for word in (YES, NO) if word in text[:_SEEN_BY_MME]), OTHER)


def confusion(said: str, label: str) -> tuple[float, float, float, float]:
    """One answer as (true positive, false positive, true negative, false negative); yes is positive."""
    positive, right = said == YES, (said == YES) == (label != NO)
    return (
        float(right and positive),
        float(not right and positive),
        float(right and not positive),
        float(not right and not positive),
    )


def _share(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """A quotient; 0 where there is nothing to divide by (the published code stops there)."""
    return np.divide(top, bottom, out=np.zeros_like(top, dtype=np.float64), where=bottom > 0)


def precision_of(sums: np.ndarray) -> np.ndarray:
    """Shape: (..., 4) -> (...), sums of `confusion`."""
    return _share(sums[..., 0], sums[..., 0] + sums[..., 1])


def recall_of(sums: np.ndarray) -> np.ndarray:
    """Shape: (..., 4) -> (...), sums of `confusion`."""
    return _share(sums[..., 0], sums[..., 0] + sums[..., 3])


def f1_of(sums: np.ndarray) -> np.ndarray:
    """Harmonic mean of precision and recall. Shape: (..., 4) -> (...), sums of `confusion`."""
    return _share(2 * sums[..., 0], 2 * sums[..., 0] + sums[..., 1] + sums[..., 3])


def yes_ratio_of(sums: np.ndarray) -> np.ndarray:
    """Share of answers that say yes. Shape: (..., 4) -> (...), sums of `confusion`."""
    return _share(sums[..., 0] + sums[..., 1], sums.sum(-1))


def mean_over_categories(of_one: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the mean of a metric over the categories that have answers. Shape: (..., 4 T) -> (...)"""

    def mean(sums: np.ndarray) -> np.ndarray:
        parts = sums.reshape(*sums.shape[:-1], -1, 4)
        there = parts.sum(-1) > 0
        return _share((of_one(parts) * there).sum(-1), there.sum(-1).astype(np.float64))

    return mean
