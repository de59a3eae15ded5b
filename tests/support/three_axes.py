"""A made-up position rule of three axes, and a tiny language model whose rotary positions have three axes."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from tiny_language_models import sharpen
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from vidtune.models.language_model.attention import PACKED_ATTENTION
from vidtune.processing.positions import Positions
from vidtune.registry import POSITION_RULES, SYSTEMS

TOKENS_OF_A_ROW = 3
_BASE = 2**20


def by_rows(spans) -> Positions:
    """Text counts on all axes; tokens of an item stand at (start, start + row, start + 2 * column), first row first.

    The text after an item goes on behind its largest position.
    """
    columns, following, starts = [], 0, {}
    for span in spans:
        if span.stream is None:
            columns.append(np.tile(np.arange(following, following + span.length), (3, 1)))
        else:
            start = starts[span.stream] = following if span.first == 0 else starts[span.stream]
            rows, places = np.divmod(np.arange(span.first, span.first + span.length), TOKENS_OF_A_ROW)
            columns.append(start + np.stack((np.zeros_like(rows), rows, 2 * places)))
        following = max(following, int(columns[-1].max()) + 1)
    return Positions(np.concatenate(columns, axis=1), following)


@contextmanager
def system_by_rows(name: str):
    """A system like the named one, but with this rule; yields its name."""
    system = SYSTEMS[name]
    POSITION_RULES.register("by_rows", by_rows)
    SYSTEMS.register("by_rows", replace(system, name="by_rows", dialect=replace(system.dialect, positions="by_rows")))
    try:
        yield "by_rows"
    finally:
        SYSTEMS.unregister("by_rows")
        POSITION_RULES.unregister("by_rows")


class ThreeAxisRotary(nn.Module):
    """Rotary embeddings of which every third pair of channels turns with another axis."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        width = config.hidden_size // config.num_attention_heads
        self.register_buffer("speeds", 10.0 ** -torch.arange(0, 1, 2 / width), persistent=False)

    def forward(self, x, position_ids):
        axes = torch.stack((position_ids // _BASE**2, position_ids // _BASE % _BASE, position_ids % _BASE))
        of_channel = axes[torch.arange(len(self.speeds)) % 3].movedim(0, -1)
        angles = (of_channel * self.speeds).repeat(1, 1, 2)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class ThreeAxisModel(LlamaModel):
    """Takes positions (3, B, L); they travel through the code of Llama as one number each."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.rotary_emb = ThreeAxisRotary(config)

    def forward(self, *args, position_ids, **kwargs):
        frames, rows, columns = position_ids
        return super().forward(*args, position_ids=(frames * _BASE + rows) * _BASE + columns, **kwargs)


class ThreeAxisLlama(LlamaForCausalLM):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.model = ThreeAxisModel(config)
        self.post_init()


def three_axis_language_model(config: LlamaConfig) -> ThreeAxisLlama:
    torch.manual_seed(0)
    model = ThreeAxisLlama._from_config(config, attn_implementation=PACKED_ATTENTION).eval()
    sharpen(model)
    return model
