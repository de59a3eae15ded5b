"""Rotary positions changed for a run: as a model that was built with them, and the first model stays as it is."""

from copy import deepcopy

import pytest
import torch
from tiny_language_models import CONFIGS, sharpen

from vidtune.errors import UserError
from vidtune.generation.limits import context_length
from vidtune.models.language_model.rope import with_rope
from vidtune.models.video_lm import VideoLM
from vidtune.registry import SYSTEMS

TOWER = {
    **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "image_size": 28, "patch_size": 14},
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


def built(text_config):
    torch.manual_seed(0)
    towers = {"image": TOWER, "video": {**TOWER, "num_frames": 2}}
    model = VideoLM(SYSTEMS["video_llava"].architecture.build_config(text_config, towers, {}))
    sharpen(model)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return built(CONFIGS["qwen2_grouped"])


@torch.inference_mode()
def logits(model):
    return model.language_model(input_ids=torch.arange(100, 160)[None]).logits


def test_a_view_turns_positions_as_a_model_that_was_built_so_and_shares_its_weights(model):
    before = logits(model)
    view = with_rope(model, YARN)
    config = deepcopy(CONFIGS["qwen2_grouped"])
    config.rope_parameters = {**config.rope_parameters, **YARN}
    assert torch.equal(logits(view), logits(built(config))) and not torch.allclose(logits(view), before)
    assert torch.equal(logits(model), before)
    assert all(one is other for one, other in zip(view.parameters(), model.parameters(), strict=True))
    assert with_rope(model, {}) is model


def test_the_longest_prompt_is_the_stretched_length_unless_it_is_given(model):
    assert context_length(with_rope(model, YARN).config.text_config) == 128
    assert context_length(with_rope(model, {**YARN, "max_position_embeddings": 160}).config.text_config) == 160
    assert context_length(model.config.text_config) == CONFIGS["qwen2_grouped"].max_position_embeddings


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "yarm"}, "rope_type is 'yarm'; did you mean 'yarn'"),
        ({"rope_type": "yarn"}, "is not what rope_type 'yarn' needs"),
        ({**YARN, "max_position_embeddings": 0}, "max_position_embeddings is 0, expected a whole number"),
    ],
)
def test_wrong_rules_are_named(model, rope, message):
    with pytest.raises(UserError, match=message):
        with_rope(model, rope)
