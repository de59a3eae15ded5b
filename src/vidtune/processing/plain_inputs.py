"""Inputs for plain transformers code: media shared among questions, prompts padded into one tensor."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from vidtune.data.problems import SampleProblem


def share_media(questions: Sequence[Sequence[str]], counts: Mapping[str, int]) -> list[list[str]]:
    """Streams of the media of each question, in the order of its tags.

    Args:
        questions: for each question the streams of its tags, in order. If no question has tags, every question gets the
            same number of items.
        counts: stream -> number of items for all questions together.

    Raises:
        SampleProblem: tags and media differ in number, or the media cannot be shared evenly.
    """
    if not any(questions):
        if any(count % len(questions) for count in counts.values()):
            raise SampleProblem(
                "tags and media differ in number", f"{len(questions)} questions without tags cannot share the media"
            )
        share = [stream for stream, count in counts.items() for _ in range(count // len(questions))]
        return [list(share) for _ in questions]
    for stream, count in counts.items():
        if (tags := sum(list(question).count(stream) for question in questions)) != count:
            raise SampleProblem(
                "tags and media differ in number", f"{tags} <{stream}> in the text but {count} {stream} items"
            )
    return [list(question) for question in questions]


def padded_left(rows: Sequence[np.ndarray], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids as one tensor, padded on the left with ``pad``, and the mask of what is not padding.

    Shape: B rows of at most L ids -> (B, L) int64, (B, L) int64
    """
    length = max(len(row) for row in rows)
    ids = np.stack([np.pad(row, (length - len(row), 0), constant_values=pad) for row in rows])
    mask = np.stack([np.arange(length) >= length - len(row) for row in rows])
    return torch.from_numpy(ids), torch.from_numpy(mask).long()
