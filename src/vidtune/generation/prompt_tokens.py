"""Prompts as the language model reads them: embeddings of text, with the media in the places of their placeholders.

Legend: n prompts, T tokens of all of them, W model width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vidtune.generation.grouping import Prompt
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Item, on_device


@dataclass(frozen=True)
class PromptTokens:
    """Tokens of n prompts, or of the same part of them, one prompt after another.

    Args:
        embeds: (1, T, W) embeddings.
        lengths: number of tokens of each prompt.
    """

    embeds: Tensor
    lengths: Sequence[int]

    @classmethod
    def of(cls, embeds: Sequence[Tensor]) -> "PromptTokens":
        """Tokens of prompts given by their embeddings, (L, W) each."""
        return cls(torch.cat(list(embeds))[None], [len(row) for row in embeds])


class EncodedMedia:
    """Media of a group of prompts, encoded once and put into any part of these prompts.

    Args:
        model: the model.
        media: stream -> its items, which every prompt contains in this order.
    """

    @torch.inference_mode()
    def __init__(self, model: VideoLM, media: Mapping[str, Sequence[Item]]) -> None:
        self.model = model
        self.embeds = {stream: torch.cat(list(model.encode_items(stream, items))) for stream, items in media.items()}

    @torch.inference_mode()
    def tokens(self, prompts: Sequence[Prompt], begin: int = 0, end: int | None = None) -> PromptTokens:
        """The tokens from ``begin`` to ``end`` of each prompt."""
        part = slice(begin, end)
        ids = np.concatenate([prompt.ids[part] for prompt in prompts])
        media = {}
        for stream in self.embeds:
            placeholder = self.model.config.placeholder_ids[stream]
            # The k-th placeholder of a stream in a prompt is the k-th token of the stream's media.
            numbers = [np.cumsum(prompt.ids == placeholder)[part] - 1 for prompt in prompts]
            places = np.flatnonzero(ids == placeholder)
            media[stream] = places, np.concatenate(numbers)[places]
            ids[places] = 0
        device = self.model.device
        embeds = self.model.get_input_embeddings()(on_device(ids, device))
        for stream, (places, numbers) in media.items():
            found = self.embeds[stream][on_device(numbers, device)]
            embeds[on_device(places, device)] = found.to(embeds.dtype)
        return PromptTokens(embeds[None], [len(prompt.ids[part]) for prompt in prompts])
