"""Alignment of media with language by words: the embeddings of a medium tell which tokens its text has.

The language model does not run. Each embedding that a connector gives is compared with the embedding of every token of
the vocabulary. A token counts as told if one of the embeddings of the sample's media tells it; or each embedding alone
has to tell all of them, so that what belongs together stands in one place, where a language model finds it at once. So
towers and connectors learn to see before a language model that starts from noise has learned to listen, and what they
give already lies near the embeddings of the words.

Legend: E examples of a pack, M tokens of media of an example, D language-model width, V vocabulary.
Sources: classification by the tokens of captions, arXiv:2411.03313; the maximum over places, arXiv:1411.4952.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.checkpoint import checkpoint

from vidtune.models.language_model.layer_call import split_levels
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Batch, on_device

SCALE = 4.0
"""Factor of the products, over the root of D."""
TOKENS_AT_ONCE = 8192
"""Tokens of the vocabulary that are compared together, to bound the memory; a larger one is computed anew backward."""


def word_log_odds(examples: Iterable[Iterable[int]], vocabulary: int) -> Tensor:
    """Log-odds of each token to be in the text of an example; what media tell is added to them.

    Args:
        examples: supervised token ids of some examples.

    Shape: -> (V,) float32
    """
    counts, number = torch.zeros(vocabulary), 0
    for ids in examples:
        counts[sorted(set(ids))] += 1
        number += 1
    return torch.logit((counts + 0.5) / (number + 1))


def word_loss(media: Sequence[Tensor], told: Tensor, table: Tensor, log_odds: Tensor, each: bool = False) -> Tensor:
    """Summed binary cross-entropy over the examples and the vocabulary.

    Args:
        media: embeddings of all media of each example, (M, D).
        each: the mean over the embeddings of an example, each of which tells all tokens.
        told: 1 where the text of an example has a token, else 0, (E, V).
        table: embeddings of the vocabulary, at least (V, D).
        log_odds: see :func:`word_log_odds`, (V,).

    Shape: scalar, float32
    """
    tokens, lengths = torch.cat(list(media)), [len(part) for part in media]
    losses = []
    for first in range(0, len(log_odds), TOKENS_AT_ONCE):
        some = slice(first, first + TOKENS_AT_ONCE)
        arguments = (tokens, lengths, told[:, some], table[: len(log_odds)][some], log_odds[some], each)
        once = len(log_odds) <= TOKENS_AT_ONCE
        losses.append(_loss(*arguments) if once else checkpoint(_loss, *arguments, use_reentrant=False))
    return torch.stack(losses).sum()


def _loss(tokens: Tensor, lengths: list[int], told: Tensor, table: Tensor, log_odds: Tensor, each: bool) -> Tensor:
    """:func:`word_loss` of a part of the vocabulary; tokens of all examples, (all M, D)."""
    scale = SCALE / math.sqrt(table.shape[1])
    found = (tokens @ table.to(tokens.dtype).t()).float() * scale
    if not each:
        seen = [part.logsumexp(0) - math.log(len(part)) for part in found.split(lengths)]
        return binary_cross_entropy_with_logits(torch.stack(seen) + log_odds, told, reduction="sum")
    counts = torch.tensor(lengths, device=found.device)
    wanted = told.repeat_interleave(counts, 0, output_size=len(found))
    shares = (1 / counts).repeat_interleave(counts, output_size=len(found))[:, None]
    return binary_cross_entropy_with_logits(found + log_odds, wanted, shares, reduction="sum")


def told_words_loss(model: VideoLM, batch: Batch, log_odds: Tensor, each: bool = False) -> Tensor:
    """:func:`word_loss` of a pack: of its examples with media, the words are their supervised tokens.

    Every trained tower and connector has a gradient, possibly zero, as in :meth:`VideoLM.loss_terms`.
    """
    places = model.find_places(batch.input_ids, batch.media) if batch.places is None else batch.places
    media: dict[int, list[Tensor]] = {}
    for stream, items in batch.media.items():
        for block, place in zip(model.encode_items(stream, items), places[stream], strict=True):
            if len(place):
                example = bisect_right(batch.cu_seqlens, int(place[0])) - 1
                media.setdefault(example, []).append(split_levels(block)[0])
    loss = model.untouched_streams(batch.media)
    if not media:
        return loss
    supervised = batch.supervised + 1
    owners = np.searchsorted(batch.cu_seqlens[1:], supervised, side="right")
    told = torch.zeros(len(batch.cu_seqlens) - 1, len(log_odds), device=log_odds.device)
    told[on_device(owners, told.device), batch.labels[0, on_device(supervised, told.device)]] = 1.0
    examples = sorted(media)
    table = cast(nn.Embedding, model.get_input_embeddings()).weight.detach()
    blocks = [torch.cat(media[example]) for example in examples]
    return loss + word_loss(blocks, told[examples], table, log_odds, each)
