"""Captions of given segments, scored as one corpus: BLEU-4, METEOR, ROUGE-L and CIDEr."""

from collections.abc import Mapping, Sequence

from vidtune.evaluation.metrics.base import CaptionMetric, Id, TaskValues, join
from vidtune.evaluation.metrics.bleu import bleu4
from vidtune.evaluation.metrics.cider import cider
from vidtune.evaluation.metrics.rouge import rouge_l
from vidtune.evaluation.metrics.tokenizer import TokenizerName, tokenize


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
    joined = join(answers, references, strict)
    wanted: list[str] = []
    counts = []
    for one in joined.ids:
        given = references[one]
        texts = [given] if isinstance(given, str) else list(given)
        counts.append(len(texts))
        wanted += texts
    tokens = tokenize([answers.get(one, "") for one in joined.ids] + wanted, tokenizer)
    predictions, rest = tokens[: len(joined.ids)], iter(tokens[len(joined.ids) :])
    listed = [[next(rest) for _ in range(count)] for count in counts]
    named: dict[str, CaptionMetric | None] = {"BLEU4": bleu4, "METEOR": meteor, "Rouge": rouge_l, "CIDEr": cider}
    metrics = {name: metric(listed, predictions) for name, metric in named.items() if metric is not None}
    unparsed = tuple(one for one in joined.ids if one in answers and not answers[one].strip())
    return TaskValues(joined.ids, joined.missing, joined.unknown, unparsed, metrics)
