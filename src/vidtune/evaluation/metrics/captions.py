"""Captions scored as one corpus by any caption metrics; answers and references are joined by id."""

from collections.abc import Mapping, Sequence

from vidtune.evaluation.metrics.base import CaptionMetric, Id, TaskValues, join
from vidtune.evaluation.metrics.tokenizer import TokenizerName, tokenize


def score_captions(
    answers: Mapping[Id, str],
    references: Mapping[Id, str | Sequence[str]],
    metrics: Mapping[str, CaptionMetric],
    *,
    of_texts: Mapping[str, CaptionMetric] | None = None,
    tokenizer: TokenizerName = "ptb",
    strict: bool = False,
) -> TaskValues[Id]:
    """Returns captioning metrics.

    Args:
        references: one or several captions per id.
        metrics: name -> metric of tokenised captions.
        of_texts: name -> metric of captions as they are written.
        strict: an item without an answer counts as an empty one.
    """
    joined = join(answers, references, strict)
    predictions = [answers.get(one, "") for one in joined.ids]
    listed = [[given] if isinstance(given := references[one], str) else list(given) for one in joined.ids]
    tokens = iter(tokenize([*predictions, *(text for texts in listed for text in texts)], tokenizer))
    of_predictions = [next(tokens) for _ in predictions]
    of_references = [[next(tokens) for _ in texts] for texts in listed]
    values = {name: metric(of_references, of_predictions) for name, metric in metrics.items()}
    values |= {name: metric(listed, predictions) for name, metric in (of_texts or {}).items()}
    unparsed = tuple(one for one in joined.ids if one in answers and not answers[one].strip())
    return TaskValues(joined.ids, joined.missing, joined.unknown, unparsed, values)
