"""Captions of given segments, scored as one corpus: BLEU-4, METEOR, ROUGE-L and CIDEr."""

from collections.abc import Mapping, Sequence

from vidtune.evaluation.metrics.base import CaptionMetric, Id, TaskValues
from vidtune.evaluation.metrics.bleu import bleu4
from vidtune.evaluation.metrics.captions import score_captions
from vidtune.evaluation.metrics.cider import cider
from vidtune.evaluation.metrics.rouge import rouge_l
from vidtune.evaluation.metrics.tokenizer import TokenizerName


def score_segment_captions(
    answers: Mapping[Id, str],
    references: Mapping[Id, str | Sequence[str]],
    *,
    meteor: CaptionMetric | None = None,
    tokenizer: TokenizerName = "ptb",
    strict: bool = False,
) -> TaskValues[Id]:
    """Returns the four captioning metrics.

    Args:
        references: one or several captions per id.
        meteor: metric that computes METEOR; None: it is not computed.
        strict: an item without an answer counts as an empty one.

    Returns:
        ``BLEU4``, ``METEOR``, ``Rouge`` and ``CIDEr``.
    """
    named: dict[str, CaptionMetric | None] = {"BLEU4": bleu4, "METEOR": meteor, "Rouge": rouge_l, "CIDEr": cider}
    metrics = {name: metric for name, metric in named.items() if metric is not None}
    return score_captions(answers, references, metrics, tokenizer=tokenizer, strict=strict)
