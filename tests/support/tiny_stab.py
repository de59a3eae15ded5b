"""A tiny model that reads clips of any aspect ratio, and such clips."""

import torch
from transformers import AutoConfig

from vidtune.models.towers.stab import StabTower, StabTowerConfig
from vidtune.models.video_lm import VideoLM
from vidtune.registry import SYSTEMS

STAB = {"hidden_size": 16, "image_size": 24, "patch_size": 2, "clip_heads": 2, "frame_heads": 4, "dropout": 0.0}
SHAPES = [(3, 8, 24, 24), (3, 8, 12, 24), (3, 5, 24, 8), (3, 1, 4, 24)]


def tiny_tower(**sizes) -> StabTower:
    """A block whose every parameter and statistic counts."""
    torch.manual_seed(0)
    tower = StabTowerConfig(**{**STAB, "padding_color": (0.1, -0.2, 0.3), **sizes}).build()
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tower.local_encoding.norm.running_mean.normal_()
    return tower.eval()


def clips(shapes=SHAPES) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def tiny_stab_model(**alignment) -> VideoLM:
    """With a distillation head for a teacher of width 24."""
    torch.manual_seed(0)
    text = AutoConfig.for_model(
        "llama",
        vocab_size=500,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
    )
    config = SYSTEMS["video_panda"].architecture.build_config(text, {"video": STAB}, {})
    sizes = {"input_size": 32, "output_size": 24, "layers": [4, 2, 0], "num_heads": 4}
    config.alignments = {"video": {**sizes, **alignment}}
    return VideoLM(config).eval()
