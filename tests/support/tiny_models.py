"""A tiny model of a registered system, on disk and in memory, with packs that mix its streams."""

from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig

from vidtune.data.sample import MediaRef
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Batch, Example, MediaSlot, pack
from vidtune.registry import SYSTEMS

TOKENIZER = Path(__file__).parent.parent / "parity" / "fixtures" / "video_llava" / "tokenizer.model"
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}

# Sizes that make a family tiny, or switch off what packs do not support.
FAMILY_SETTINGS = {
    "mistral": {"sliding_window": None},
    "phi3": {"pad_token_id": 0},
    "smollm3": {"pad_token_id": 0},
    "starcoder2": {"sliding_window": None},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "attn_logit_softcapping": None, "layer_types": ["full_attention"] * 2},
    "glm": {"head_dim": 8, "pad_token_id": 0},
    "cohere": {"pad_token_id": 0, "logit_scale": 0.3},
    "granite": {"logits_scaling": 3.0},
    "mixtral": {"num_local_experts": 2},
    "qwen2_moe": {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "num_experts": 4},
}


def tiny_model(text_type: str = "llama", **text) -> VideoLM:
    sizes = {
        "vocab_size": 500,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }
    text_config = AutoConfig.for_model(text_type, **{**sizes, **text})
    torch.manual_seed(0)
    config = SYSTEMS["video_llava"].architecture.build_config(text_config, {"image": TOWER, "video": TOWER}, {})
    return VideoLM(config).eval()


def random_example(model: VideoLM, streams: str, seed: int) -> tuple[Example, list[np.ndarray]]:
    """An example with text around one item of every stream named (comma separated), and its values."""
    rng = np.random.default_rng(seed)
    ids, owners, media, arrays = [rng.integers(3, 400, 3)], [-1] * 3, [], []
    for stream in filter(None, streams.split(",")):
        shape = model.config.tower(stream).input_shape()
        tokens = model.config.num_tokens(stream, shape)
        ids += [np.full(tokens, model.config.placeholder_ids[stream]), rng.integers(3, 400, 2)]
        owners += [len(media)] * tokens + [-1] * 2
        media.append(MediaSlot(MediaRef(stream, f"/{stream}"), tokens))
        arrays.append(rng.standard_normal(shape, dtype=np.float32))
    answer = rng.integers(3, 400, 4)
    input_ids = np.concatenate([*ids, answer]).astype(np.int64)
    labels = np.full(len(input_ids), -100)
    labels[-len(answer) :] = answer
    owners += [-1] * len(answer)
    return Example(str(seed), input_ids, labels, tuple(media), owners=np.array(owners)), arrays


def packed(examples) -> Batch:
    return pack([example for example, _ in examples], [arrays for _, arrays in examples])
