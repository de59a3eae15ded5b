"""A checkpoint of a few thousand weights that takes boxes, and whose answers depend on where they are."""

from pathlib import Path

import torch
from tiny_language_models import CONFIGS, byte_tokenizer, sharpen

from vidtune.checkpoints.fit_processor import build_processor
from vidtune.models.video_lm import VideoLM
from vidtune.registry import SYSTEMS

TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "pooled_frames": 4,
}
REGION = {"rounds": 1, "groups": 4, "roi_size": 4, "inner_size": 16, "position_size": 8, "num_levels": 2}


def write_target_checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    build = SYSTEMS["artemis"].architecture.build_config
    config = build(CONFIGS["llama"], {"clip": TOWER}, {"region": {**REGION, "image_size": 32}})
    model = VideoLM(config)
    sharpen(model)
    model.save_pretrained(folder)
    build_processor(config, byte_tokenizer()).save_pretrained(folder)
    return folder
