"""Tiny random models of transformers that read videos, saved as folders with processor, tokenizer and chat template.

Their files are written by hand where saving them needs torchvision.
"""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForMultimodalLM, PreTrainedTokenizerFast

SIDE = 28
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}{{ TAGS[part['type']] }}{% endif %}{% endfor %}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
TEXT = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT |= {"num_key_value_heads": 1, "max_position_embeddings": 2048}
SIGHT = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
SIGHT |= {"image_size": SIDE, "patch_size": 14}
SQUARE = {"height": SIDE, "width": SIDE}
QWEN_SIZE = {"shortest_edge": SIDE * SIDE, "longest_edge": 2 * SIDE * SIDE}
GRID = [[SIDE, SIDE]]
KINDS = ("qwen2_5_vl", "llava_onevision", "smolvlm", "video_llava")


def write_vlm(folder: Path, kind: str, **changes: Any) -> Path:
    """Save a model of one of `KINDS`; ``changes``: to its config."""
    image, video = ("<|image_pad|>", "<|video_pad|>") if kind == "qwen2_5_vl" else ("<image>", "<video>")
    specials = [image, video, "</s>", "<|vision_start|>", "<|vision_end|>"]
    specials += ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    tokenizer = _tokenizer(specials, {"image_token": image, "video_token": video})
    ids = dict(zip(("image", "video", "eos", "start", "end"), tokenizer.convert_tokens_to_ids(specials), strict=False))
    config, processor, pictures, videos = _settings(kind, len(tokenizer), ids)
    torch.manual_seed(0)
    made = AutoConfig.for_model(kind, **{**config, **changes})
    model = AutoModelForMultimodalLM.from_config(made)
    model.generation_config.eos_token_id = ids["eos"]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tags = {"image": f"<|vision_start|>{image}<|vision_end|>", "video": f"<|vision_start|>{video}<|vision_end|>"}
    tags = tags if kind == "qwen2_5_vl" else {"image": image, "video": video}
    for name, text in (
        ("processor_config.json", json.dumps(processor)),
        ("preprocessor_config.json", json.dumps(pictures)),
        ("video_preprocessor_config.json", json.dumps(videos)),
        ("chat_template.jinja", "{% set TAGS = " + json.dumps(tags) + " %}" + TEMPLATE),
    ):
        (folder / name).write_text(text)
    return folder


def _tokenizer(specials: list[str], named: dict[str, str]) -> PreTrainedTokenizerFast:
    """One token per byte, and the special tokens."""
    vocabulary = {letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="</s>", pad_token="</s>", extra_special_tokens=named
    )
    tokenizer.add_tokens(specials, special_tokens=True)
    return tokenizer


def _settings(kind: str, vocabulary: int, ids: dict[str, int]) -> tuple[dict[str, Any], ...]:
    """Config of the model, and settings of processor, pictures and videos."""
    text = {**TEXT, "vocab_size": vocabulary, "eos_token_id": ids["eos"], "pad_token_id": ids["eos"]}
    if kind == "qwen2_5_vl":
        sight = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
        text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
        tokens = {f"{name}_token_id": ids[name] for name in ("image", "video")}
        tokens |= {"vision_start_token_id": ids["start"], "vision_end_token_id": ids["end"]}
        sight |= {"fullatt_block_indexes": [0], "window_size": 56}
        shared = {"size": QWEN_SIZE, "patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
        return (
            {
                "text_config": text,
                "vision_config": {**sight, "fullatt_block_indexes": [0], "window_size": 56},
                **tokens,
            },
            {"processor_class": "Qwen2_5_VLProcessor"},
            {"image_processor_type": "Qwen2VLImageProcessor", **shared},
            {"video_processor_type": "Qwen2VLVideoProcessor", **shared},
        )
    if kind == "llava_onevision":
        return (
            {
                "text_config": {**text, "model_type": "qwen2"},
                "vision_config": {**SIGHT, "model_type": "siglip_vision_model", "vision_use_head": False},
                "image_grid_pinpoints": GRID,
                "image_token_index": ids["image"],
                "video_token_index": ids["video"],
                "image_token_id": ids["image"],
                "video_token_id": ids["video"],
            },
            {
                "processor_class": "LlavaOnevisionProcessor",
                "num_image_tokens": 4,
                "vision_feature_select_strategy": "full",
            },
            {
                "image_processor_type": "LlavaOnevisionImageProcessor",
                "size": SQUARE,
                "image_grid_pinpoints": [[28, 28]],
            },
            {"video_processor_type": "LlavaOnevisionVideoProcessor", "size": SQUARE},
        )
    if kind == "smolvlm":
        longest = {"size": {"longest_edge": SIDE}, "max_image_size": {"longest_edge": SIDE}}
        return (
            {
                "text_config": {**text, "model_type": "llama"},
                "vision_config": SIGHT,
                "image_token_id": ids["image"],
                "scale_factor": 2,
                "pad_token_id": ids["eos"],
            },
            {"processor_class": "SmolVLMProcessor", "image_seq_len": 1},
            {"image_processor_type": "SmolVLMImageProcessor", **longest, "do_image_splitting": False},
            {
                "video_processor_type": "SmolVLMVideoProcessor",
                **longest,
                "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": SIDE}},
            },
        )
    shared = {"size": {"shortest_edge": SIDE}, "crop_size": SQUARE}
    return (
        {
            "text_config": {**text, "model_type": "llama"},
            "vision_config": {**SIGHT, "model_type": "clip_vision_model"},
            "image_token_index": ids["image"],
            "video_token_index": ids["video"],
            "image_token_id": ids["image"],
            "video_token_id": ids["video"],
            "image_seq_length": 4,
            "video_seq_length": 40,
        },
        {"processor_class": "VideoLlavaProcessor", "patch_size": 14, "vision_feature_select_strategy": "default"},
        {"image_processor_type": "VideoLlavaImageProcessor", **shared},
        {"video_processor_type": "VideoLlavaVideoProcessor", **shared},
    )
