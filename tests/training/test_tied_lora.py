"""LoRA on a language model whose output head is its embedding: one weight under two names."""

from pathlib import Path

import torch
from training_world import LANGUAGE_MODEL

from vidtune.checkpoints.load import load_checkpoint
from vidtune.training.run import train_stages as train

LORA = {"learning_rate": 1e-2, "lora": {"rank": 4, "alpha": 8}}


def test_a_bundle_on_tied_weights_is_read_and_trained_on(make_recipe, tmp_path: Path) -> None:
    stages = [
        {"name": "first", "train": {"language_model": LORA, "connectors": 1e-3}, "max_steps": 1},
        {"name": "second", "train": {"language_model": LORA}, "max_steps": 1},
    ]
    recipe = make_recipe(stages=stages, workers=0, warmup=0.0)
    tied = recipe.model_copy(update={"language_model": {**LANGUAGE_MODEL, "tie_word_embeddings": True}})
    final = train(tied, tmp_path / "out", progress=False)
    state = load_checkpoint(final).model.state_dict()
    assert torch.equal(state["language_model.lm_head.weight"], state["language_model.model.embed_tokens.weight"])
