"""A checkpoint of a few thousand weights whose answers depend on what it sees."""

from itertools import pairwise
from pathlib import Path

import torch
from tiny_language_models import CONFIGS, byte_tokenizer, sharpen

from vidtune.checkpoints.fit_processor import build_processor
from vidtune.models.video_lm import VideoLM
from vidtune.registry import SYSTEMS

TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def write_checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    config = SYSTEMS["video_llava"].architecture.build_config(
        CONFIGS["llama"], {"image": TOWER, "video": {**TOWER, "num_frames": 2}}, {}
    )
    model = VideoLM(config)
    sharpen(model)
    embeddings = model.towers["video"].embeddings
    for where in (embeddings.class_embedding, embeddings.position_embedding.weight):
        where.data.zero_()  # what is seen decides the answer, not where it is seen
    model.save_pretrained(folder)
    build_processor(config, byte_tokenizer()).save_pretrained(folder)
    (folder / "recipe.yaml").write_text("system: video_llava\n")
    return folder


def always_say(folder: Path, text: str, after: str, endless: bool = False) -> Path:
    """Make the checkpoint say ``text``, no character of it twice, behind a prompt that ends with ``after``; or say it
    again and again, in a context that no test fills.

    Layers add nothing to what is embedded, and the head knows for each token the next one.
    """
    model = VideoLM.from_pretrained(folder)
    model.config.text_config.max_position_embeddings = 100_000
    state = dict(model.language_model.named_parameters())
    embedded, head = state["model.embed_tokens.weight"].data, state["lm_head.weight"].data
    for name, one in state.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            one.data.zero_()
    head.zero_()
    chain = [*(after + text).encode(), text.encode()[0] if endless else 257]
    for place, (one, following) in enumerate(pairwise(chain)):
        embedded[one].zero_()[place] = 1
        head[following, place] = 10
    model.save_pretrained(folder)
    return folder
