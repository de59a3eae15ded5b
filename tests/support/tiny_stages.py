"""Tiny models with what trains in them, and packs of known size: for counting what a stage costs."""

import torch
from transformers import AutoConfig

from vidtune.checkpoints.lora.injection import add_adapters
from vidtune.data.sample import MediaRef
from vidtune.models.config import VideoLMConfig
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Batch, Example, MediaSlot, pack
from vidtune.recipe.types import LoRA, Train
from vidtune.registry import SYSTEMS
from vidtune.training.setup.parameters import prepare_components

FULL, LORA = Train(learning_rate=1e-3), Train(learning_rate=1e-3, lora=LoRA(rank=4))
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28}


def composed(kind: str = "llama", **text) -> VideoLMConfig:
    sizes = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
    text_config = AutoConfig.for_model(
        kind, **{**sizes, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, **text}
    )
    video = {**TOWER, "num_frames": 4, "temporal_attention": True}
    return SYSTEMS["video_llava"].architecture.build_config(text_config, {"image": TOWER, "video": video}, {})


def batch_of(config: VideoLMConfig, lengths: list[int], items: dict[str, int], supervised: int) -> Batch:
    """Random examples; the first holds all media."""
    ids = [torch.randint(3, 200, (length,)) for length in lengths]
    slots, arrays = [], []
    place = 1
    for stream, number in items.items():
        shape = config.tower(config.streams[stream]["tower"]).input_shape()
        tokens = config.num_tokens(stream, shape)
        for _ in range(number):
            ids[0][place : place + tokens] = config.placeholder_ids[stream]
            place += tokens
            slots.append(MediaSlot(MediaRef(stream, f"/{stream}"), tokens))
            arrays.append(torch.randn(shape))
    labels = [torch.full((length,), -100) for length in lengths]
    labels[-1][-supervised:] = 7
    examples = [
        Example(str(n), ids[n].numpy(), labels[n].numpy(), tuple(slots) if n == 0 else ()) for n in range(len(lengths))
    ]
    return pack(examples, [arrays if n == 0 else [] for n in range(len(lengths))])


def trained_parts(config: VideoLMConfig, wanted: list[str]) -> dict[str, Train]:
    """How each component trains; "lora" stands for adapters in the language model."""
    names = [f"towers.{name}" for name in config.towers] + [f"connectors.{name}" for name in config.connectors]
    trained = {name: FULL for name in [*names, "language_model"] if any(name.startswith(start) for start in wanted)}
    return trained | ({"language_model": LORA} if "lora" in wanted else {})


def prepared(config: VideoLMConfig, trained: dict[str, Train], frozen_dtype: torch.dtype) -> VideoLM:
    """A real model, frozen and with adapters as a stage has it."""
    torch.manual_seed(0)
    model = VideoLM(config)
    for name, how in trained.items():
        if how.lora:
            add_adapters(model.components()[name], how.lora, 0, name)
    prepare_components(model, trained, frozen_dtype)
    return model
