"""Alignment of media with language by words: the embeddings of a medium tell which tokens its text has.

The language model does not run. Each embedding that a connector gives is compared with the embedding of every token of
the vocabulary. So towers and connectors learn to see before a language model that starts from noise has learned to
listen, and what they give already lies near the embeddings of the words. What has to tell what:

- "align": a token counts as told if one of the embeddings of the sample's media tells it;
- "align_each": each embedding alone tells all tokens of the text;
- "align_sentences": each sentence is told, whole, by one embedding, and each embedding tells one sentence or nothing,
  so that what belongs together stands in one place, where a language model finds it at once.

Legend: E examples of a pack, M tokens of media of an example, S sentences, D language-model width, V vocabulary.
Sources: classification by the tokens of captions, arXiv:2411.03313; the maximum over places, arXiv:1411.4952; each of
one set matched with the nearest of another, arXiv:1612.00603.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus
from torch.utils.checkpoint import checkpoint

from vidtune.models.language_model.call_plan import split_levels
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import IGNORED, Batch
from vidtune.processing.tokenizer import sentences

SCALE = 4.0
"""Factor of the products, over the root of D."""
TOKENS_AT_ONCE = 8192
"""Tokens of the vocabulary that are compared together, to bound the memory; a larger one is computed anew backward."""


AlignObjective = Literal["align", "align_each", "align_sentences"]


def word_log_odds(texts: Iterable[Iterable[int]], vocabulary: int) -> Tensor:
    """Log-odds of each token to be in a text; what media tell is added to them.

    Args:
        texts: token ids of some texts, or of some sentences.

    Shape: -> (V,) float32
    """
    counts, number = torch.zeros(vocabulary), 0
    for ids in texts:
        counts[sorted(set(ids))] += 1
        number += 1
    return torch.logit((counts + 0.5) / (number + 1))


class WordTelling(nn.Module):
    """The loss of a stage that aligns media with words.

    Args:
        objective: what has to tell what, see the module.
        texts: supervised token ids of some examples, by which it is known how common each token is.
        kinds: those of the tokens of the vocabulary, see :func:`token_kinds`, (V,).
    """

    log_odds: Tensor

    def __init__(self, objective: AlignObjective, texts: Iterable[Sequence[int]], kinds: np.ndarray) -> None:
        super().__init__()
        self.objective = objective
        self.kinds = kinds
        log_odds = word_log_odds((part for ids in texts for part in self._parts(ids)), len(kinds))
        self.register_buffer("log_odds", log_odds, persistent=False)

    def _parts(self, ids: Sequence[int]) -> list[list[int]]:
        """What is told whole: the sentences of a text, or the text."""
        return sentences(ids, self.kinds) if self.objective == "align_sentences" else [list(ids)]

    def forward(self, model: VideoLM, batch: Batch) -> Tensor:
        """Returns the summed loss of a pack: of its examples with media, the words are their supervised tokens.

        Every trained tower and connector has a gradient, possibly zero, as in :meth:`VideoLM.loss_terms`.
        """
        media = _media_of_examples(model, batch)
        loss = model.untouched_streams(batch.media)
        if not media:
            return loss
        labels = batch.labels[0].cpu().numpy()
        texts = [labels[first:end] for first, end in zip(batch.cu_seqlens, batch.cu_seqlens[1:], strict=False)]
        told = [self._told(texts[example][texts[example] != IGNORED].tolist()) for example in media]
        table = cast(nn.Embedding, model.get_input_embeddings()).weight.detach()
        blocks = [torch.cat(found) for found in media.values()]
        return loss + word_loss(blocks, [part.to(loss.device) for part in told], table, self.log_odds, self.objective)

    def _told(self, ids: list[int]) -> Tensor:
        parts = self._parts(ids)
        told = torch.zeros(len(parts), len(self.kinds))
        for row, part in zip(told, parts, strict=True):
            row[part] = 1.0
        return told


def _media_of_examples(model: VideoLM, batch: Batch) -> dict[int, list[Tensor]]:
    """Example -> embeddings of its media, (M, D) each; examples without media are left out."""
    places = model.find_places(batch.input_ids, batch.media) if batch.places is None else batch.places
    media: dict[int, list[Tensor]] = {}
    for stream, items in batch.media.items():
        for block, place in zip(model.encode_items(stream, items), places[stream], strict=True):
            if len(place):
                media.setdefault(batch.example_of(place), []).append(split_levels(block)[0])
    return media


def word_loss(
    media: Sequence[Tensor],
    told: Sequence[Tensor],
    table: Tensor,
    log_odds: Tensor,
    objective: AlignObjective = "align",
) -> Tensor:
    """Summed loss over the examples: binary cross-entropy over the vocabulary.

    Args:
        media: embeddings of all media of each example, (M, D).
        told: 1 where a text has a token, else 0: for each example (1, V), or (S, V) for its sentences.
        table: embeddings of the vocabulary, at least (V, D).
        log_odds: see :func:`word_log_odds`, (V,).
        objective: "align_each": the mean over the embeddings of an example; "align_sentences": the mean over its
            sentences, each told by the embedding that tells it best, plus the mean over its embeddings, each of which
            tells the sentence, or the nothing, that it tells best.

    Shape: scalar, float32
    """
    tokens, lengths, words = torch.cat(list(media)), [len(part) for part in media], torch.cat(list(told))
    loss_of = {"align": _by_any, "align_each": _by_each, "align_sentences": _by_pairs}[objective]
    found = []
    for first in range(0, len(log_odds), TOKENS_AT_ONCE):
        some = slice(first, first + TOKENS_AT_ONCE)
        arguments = (tokens, lengths, words[:, some], table[: len(log_odds)][some], log_odds[some])
        once = len(log_odds) <= TOKENS_AT_ONCE
        found.append(loss_of(*arguments) if once else checkpoint(loss_of, *arguments, use_reentrant=False))
    loss = torch.stack(found).sum(0)
    return loss if objective != "align_sentences" else _matched(loss, lengths, [len(part) for part in told])


def _logits(tokens: Tensor, table: Tensor) -> Tensor:
    return (tokens @ table.to(tokens.dtype).t()).float() * (SCALE / math.sqrt(table.shape[1]))


def _by_any(tokens: Tensor, lengths: list[int], told: Tensor, table: Tensor, log_odds: Tensor) -> Tensor:
    """Loss of a part of the vocabulary; tokens of all examples, (all M, D)."""
    seen = [part.logsumexp(0) - math.log(len(part)) for part in _logits(tokens, table).split(lengths)]
    return binary_cross_entropy_with_logits(torch.stack(seen) + log_odds, told, reduction="sum")


def _by_each(tokens: Tensor, lengths: list[int], told: Tensor, table: Tensor, log_odds: Tensor) -> Tensor:
    counts = torch.tensor(lengths, device=tokens.device)
    wanted = told.repeat_interleave(counts, 0, output_size=len(tokens))
    shares = (1 / counts).repeat_interleave(counts, output_size=len(tokens))[:, None]
    return binary_cross_entropy_with_logits(_logits(tokens, table) + log_odds, wanted, shares, reduction="sum")


def _by_pairs(tokens: Tensor, lengths: list[int], told: Tensor, table: Tensor, log_odds: Tensor) -> Tensor:
    """Loss of each embedding with each sentence, and in the last column with none: (all M, all S + 1)."""
    logits = _logits(tokens, table) + log_odds
    silent = softplus(logits).sum(1, keepdim=True)
    return torch.cat([silent - logits @ told.t(), silent], 1)


def _matched(losses: Tensor, lengths: list[int], counts: list[int]) -> Tensor:
    """Loss of pairs -> the loss of the examples, in which each sentence and each embedding has its best partner."""
    found, first = [losses.new_zeros(())], 0
    for block, number in zip(losses.split(lengths), counts, strict=True):
        pairs = torch.cat([block[:, first : first + number], block[:, -1:]], 1)
        if number:
            found.append(_least(pairs[:, :-1], 0).mean())
        found.append(_least(pairs, 1).mean())
        first += number
    return torch.stack(found).sum()


def _least(losses: Tensor, dim: int) -> Tensor:
    """The least loss, with a gradient for all that are near it."""
    return math.log(losses.shape[dim]) - (-losses).logsumexp(dim)
