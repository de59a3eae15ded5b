"""Rotary positions that depend on the longest sequence of a call: exact, or refused in one line."""

from itertools import pairwise

import pytest
import torch
from tiny_models import packed, random_example, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from vidtune.errors import UserError
from vidtune.generation.limits import context_length
from vidtune.models.language_model.attention import check_lengths, rotary_limit

LIMIT = 16
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 1e4}
KINDS = {
    "longrope": (
        "phi3",
        {
            "rope_parameters": {**LONGROPE, "original_max_position_embeddings": LIMIT},
            "max_position_embeddings": 64,
            "original_max_position_embeddings": LIMIT,
            "pad_token_id": 0,
        },
    ),
    "dynamic": (
        "llama",
        {
            "max_position_embeddings": LIMIT,
            "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
        },
    ),
    "linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    "yarn": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 1e4,
                "original_max_position_embeddings": LIMIT,
            }
        },
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("longest", [LIMIT, 2 * LIMIT])
def test_a_pack_gives_what_its_samples_give_or_is_refused(kind: str, longest: int) -> None:
    model_type, settings = KINDS[kind]
    model = tiny_model(model_type, **settings)
    weights = model.language_model.state_dict()
    plain = AutoModelForCausalLM.from_config(model.config.text_config, attn_implementation="eager").eval()
    plain.load_state_dict(weights)
    lengths = [7, longest, 5]
    ends = [0, 7, 7 + longest, 12 + longest]
    embeds = torch.randn(1, ends[-1], 32, generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    if kind in ("longrope", "dynamic") and longest > LIMIT:
        with pytest.raises(UserError, match=rf"more than {LIMIT} tokens, and one has {longest}; set max_"):
            model(inputs_embeds=embeds, position_ids=positions, cu_seqlens=ends)
        with torch.no_grad():  # one sample alone is exact
            alone = model(inputs_embeds=embeds[:, :longest], cu_seqlens=[0, longest]).logits
            torch.testing.assert_close(alone, plain(inputs_embeds=embeds[:, :longest]).logits, rtol=0, atol=1e-5)
        return
    with torch.no_grad():
        found = model(inputs_embeds=embeds, position_ids=positions, cu_seqlens=ends).logits[0]
        expected = [plain(inputs_embeds=embeds[:, a:b]).logits[0] for a, b in pairwise(ends)]
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-5)


def test_training_and_answering_know_the_limit() -> None:
    model_type, settings = KINDS["longrope"]
    model = tiny_model(model_type, **settings)
    batch = packed([random_example(model, streams, seed) for seed, streams in enumerate(["", "video,video", ""])])
    assert max(b - a for a, b in pairwise(batch.cu_seqlens)) > LIMIT
    with pytest.raises(UserError, match=f"more than {LIMIT} tokens"):
        model.loss_sum(batch)
    assert context_length(model.config.text_config) == LIMIT
    config = AutoConfig.for_model("llama", max_position_embeddings=99)
    assert rotary_limit(config) is None and context_length(config) == 99
    check_lengths(config, [1000, 5])
