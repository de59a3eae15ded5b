"""Prompts as the language model reads them: positions and embeddings, with media in the places of their placeholders.

Legend: n prompts, T tokens of all of them, W model width.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from vidtune.generation.grouping import Prompt
from vidtune.models.language_model.call_plan import MediaTokens, split_levels
from vidtune.models.language_model.layer_program import LayerProgram
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Item, on_device
from vidtune.processing.positions import position_ids


@dataclass(frozen=True)
class PromptTokens:
    """Tokens of n prompts, or of the same part of them, one prompt after another.

    Args:
        embeds: (1, T, W) embeddings.
        lengths: number of tokens of each prompt.
        position_ids: (1, T) positions, or (axes, 1, T).
        next_positions: for each prompt, the position of the first token of its answer.
        media: the media among the tokens.
        program: layer program of the model.
    """

    embeds: Tensor
    lengths: Sequence[int]
    position_ids: Tensor
    next_positions: Sequence[int]
    media: Sequence[MediaTokens] = ()
    program: LayerProgram = field(default_factory=LayerProgram)

    @classmethod
    def of(cls, embeds: Sequence[Tensor], begin: int = 0) -> "PromptTokens":
        """Tokens given by their embeddings, (L, W) for each prompt, with consecutive positions from ``begin`` on."""
        together = torch.cat(list(embeds))
        lengths = [len(row) for row in embeds]
        positions = torch.cat([torch.arange(begin, begin + length) for length in lengths])
        ends = [begin + length for length in lengths]
        return cls(together[None], lengths, positions[None].to(together.device), ends)

    @classmethod
    def together(cls, parts: Sequence["PromptTokens"]) -> "PromptTokens":
        """Tokens of several groups of prompts, one group after another; all have the same layer program."""
        if len(parts) == 1:
            return parts[0]
        begins = accumulate((part.embeds.shape[1] for part in parts[:-1]), initial=0)
        return cls(
            torch.cat([part.embeds for part in parts], 1),
            [length for part in parts for length in part.lengths],
            torch.cat([part.position_ids for part in parts], -1),
            [position for part in parts for position in part.next_positions],
            [
                replace(item, places=item.places + begin)
                for part, begin in zip(parts, begins, strict=True)
                for item in part.media
            ],
            parts[0].program,
        )

    def answer_positions(self, positions: Sequence[int]) -> Tensor:
        """Positions of tokens of answers, the same on every axis, as :attr:`position_ids`: (1, n) or (axes, 1, n)."""
        row = torch.tensor(positions, device=self.position_ids.device)
        return row.expand(*self.position_ids.shape[:-1], -1)


class EncodedMedia:
    """Media of a group of prompts, encoded once and put into any part of these prompts.

    Args:
        model: the model.
        media: stream -> its items, which every prompt contains in this order; or what the model encoded them to, a
            tensor for each.
        program: layer program; None: that of the model.
    """

    @torch.inference_mode()
    def __init__(
        self, model: VideoLM, media: Mapping[str, Sequence[Item | Tensor]], program: LayerProgram | None = None
    ) -> None:
        self.model = model
        self.program = (model.program if program is None else program).of_streams(media)
        found = {
            stream: [split_levels(block) for block in _blocks(model, stream, items)] for stream, items in media.items()
        }
        self.embeds = {stream: torch.cat([block for block, _ in blocks]) for stream, blocks in found.items()}
        self.levels = {stream: [levels for _, levels in blocks] for stream, blocks in found.items()}

    def not_finite(self) -> list[str]:
        """Streams whose embeddings hold NaN or Inf."""
        return [stream for stream, embeds in self.embeds.items() if not embeds.isfinite().all()]

    @torch.inference_mode()
    def tokens(self, prompts: Sequence[Prompt], begin: int = 0, end: int | None = None) -> PromptTokens:
        """The tokens from ``begin`` to ``end`` of each prompt."""
        part = slice(begin, end)
        ids = np.concatenate([prompt.ids[part] for prompt in prompts])
        media = {}
        for stream in self.embeds:
            placeholder = self.model.config.placeholder_ids[stream]
            # The k-th placeholder of a stream in a prompt is the k-th token of the stream's media.
            counted = [np.cumsum(prompt.ids == placeholder)[part] - 1 for prompt in prompts]
            places = np.flatnonzero(ids == placeholder)
            media[stream] = places, np.concatenate(counted)[places]
            ids[places] = 0
        device = self.model.device
        embeds = self.model.get_input_embeddings()(on_device(ids, device))
        for stream, (places, tokens) in media.items():
            found = self.embeds[stream][on_device(tokens, device)]
            embeds[on_device(places, device)] = found.to(embeds.dtype)
        positions = np.concatenate([prompt.positions.values[:, part] for prompt in prompts], axis=1)
        return PromptTokens(
            embeds[None],
            [len(prompt.ids[part]) for prompt in prompts],
            on_device(position_ids(positions), device),
            [prompt.positions.next for prompt in prompts],
            media_tokens(prompts, part, self.levels) if self.program else (),
            self.program,
        )


def _blocks(model: VideoLM, stream: str, items: Sequence[Item | Tensor]) -> Iterable[Tensor]:
    known = [item for item in items if isinstance(item, Tensor)]
    return known or model.encode_items(stream, [item for item in items if isinstance(item, Item)])


def media_tokens(
    prompts: Sequence[Prompt], part: slice, levels: Mapping[str, Sequence[Tensor | None]] | None = None
) -> list[MediaTokens]:
    """The media among the tokens of a part of each prompt, one part after another.

    Args:
        levels: stream -> levels of each of its items; None: without levels, to count tokens.
    """
    found: list[MediaTokens] = []
    begin = 0
    for prompt in prompts:
        assert prompt.example.owners is not None
        owners, numbers = prompt.example.owners[part], Counter[str]()
        for owner, slot in enumerate(prompt.example.media):
            places = begin + np.flatnonzero(owners == owner)
            if len(places):
                level = None if levels is None else levels[slot.stream][numbers[slot.stream]]
                found.append(MediaTokens(slot.stream, places, level))
            numbers[slot.stream] += 1
        begin += len(owners)
    return found
