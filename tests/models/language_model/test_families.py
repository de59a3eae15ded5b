"""Families of language models: the known ones are what their records say, the others are proven or refused."""

import pytest
import torch
from tiny_models import FAMILY_SETTINGS, packed, random_example, tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

from vidtune.errors import UserError
from vidtune.generation.shared_prefix import check_language_model
from vidtune.models.config import VideoLMConfig
from vidtune.models.language_model import families
from vidtune.models.language_model.attention import PACKED_ATTENTION
from vidtune.models.language_model.families import Family, config_class, family_of, proven
from vidtune.models.video_lm import VideoLM
from vidtune.registry import LANGUAGE_MODELS

UNKNOWN = {
    "bert": {"is_decoder": False},
    "xglm": {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48},
    "opt": {"word_embed_proj_dim": 32, "ffn_dim": 48},
    "bloom": {"n_head": 4, "n_layer": 2},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "expansion_ratio": 2},
    "falcon": {},
    "gptj": {"n_positions": 64, "rotary_dim": 4},
    "nemotron": {},
    "stablelm": {"partial_rotary_factor": 0.5},
    "persimmon": {},
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
    },
}


def losses(model) -> list[torch.Tensor]:
    """Loss of two examples in one pack, and the sum of their losses one by one."""
    examples = [random_example(model, "", seed) for seed in (0, 1)]
    with torch.no_grad():
        return [model.loss_sum(packed(examples)), sum(model.loss_sum(packed([example])) for example in examples)]


@pytest.fixture
def nothing_proven(monkeypatch):
    monkeypatch.setattr(families, "_PROVEN", {})


@pytest.mark.parametrize("name", LANGUAGE_MODELS.names())
def test_a_known_family_passes_the_proof(name, nothing_proven):
    model = tiny_model(name, **FAMILY_SETTINGS.get(name, {}))
    found = proven(Family(), model.language_model)
    assert found.exact and not model.training
    is_plain = family_of(model.config.text_config).logits(model.config.text_config) is None
    assert (found.logits is not None) == is_plain
    assert model.language_model.config._attn_implementation == PACKED_ATTENTION
    assert len(found.decoder_layers(model.language_model)) == 2


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_family_is_right_or_refused_in_one_line(name, nothing_proven):
    try:
        model = tiny_model(name, **UNKNOWN[name])
    except UserError as error:
        assert name in ("bert", "xglm", "bloom", "mpt", "falcon", "gptj", "nemotron", "stablelm")
        assert "\n" not in str(error) and f"language model '{name}' cannot read samples that are packed" in str(error)
        return
    assert name in ("opt", "persimmon", "deepseek_v3") and model.family.exact
    torch.testing.assert_close(*losses(model))
    try:
        check_language_model(model.language_model)
    except UserError as error:
        assert name == "deepseek_v3" and "share_prefix=False" in str(error)


class Leaking(LlamaForCausalLM):
    """Accepts the boundaries of packs and ignores them."""

    def forward(self, *args, cu_seqlens=None, **kwargs):
        return super().forward(*args, **kwargs)


class OwnConfig(LlamaConfig):
    model_type = "of_a_test"


def build(kind):
    return lambda config: kind._from_config(config, attn_implementation=PACKED_ATTENTION)


@pytest.fixture
def registered(nothing_proven):
    def register(kind):
        LANGUAGE_MODELS.register(
            "of_a_test", Family(build=build(kind), config=OwnConfig, keys=(("theirs.", "model."),))
        )

    yield register
    LANGUAGE_MODELS.unregister("of_a_test")


def small(**sizes) -> dict:
    return {**tiny_model().config.text_config.to_dict(), "model_type": "of_a_test", **sizes}


def test_a_family_of_another_package_is_built_proven_saved_and_loaded(registered, tmp_path, monkeypatch):
    registered(LlamaForCausalLM)
    torch.manual_seed(0)
    model = VideoLM(VideoLMConfig(text_config=small()))
    assert model.family.exact and isinstance(model.config.text_config, OwnConfig)
    expected = losses(model)
    torch.testing.assert_close(*expected)
    model.save_pretrained(tmp_path)
    calls = []
    monkeypatch.setattr(families, "_PROVEN", {})
    monkeypatch.setattr(families, "_proof", lambda family, model: calls.append(model) or Family(exact=True))
    again = VideoLM.from_pretrained(tmp_path)
    torch.testing.assert_close(losses(again), expected)
    assert calls == [again.language_model]
    assert "language model family of_a_test" in model.config.to_dict()["packages"]


def test_a_family_that_sees_other_samples_is_refused_when_built_or_loaded_but_not_without_weights(registered, tmp_path):
    registered(LlamaForCausalLM)
    VideoLM(VideoLMConfig(text_config=small())).save_pretrained(tmp_path)
    LANGUAGE_MODELS.unregister("of_a_test")
    registered(Leaking)
    families._PROVEN.clear()
    with torch.device("meta"):
        assert not VideoLM(VideoLMConfig(text_config=small())).family.exact
    for make in (lambda: VideoLM(VideoLMConfig(text_config=small())), lambda: VideoLM.from_pretrained(tmp_path)):
        with pytest.raises(UserError, match=r"language model 'of_a_test' cannot read .* attends to the samples before"):
            make()


def test_a_proof_is_made_once_per_config_and_weights(registered, monkeypatch):
    registered(LlamaForCausalLM)
    proofs, proof = [], families._proof
    monkeypatch.setattr(families, "_proof", lambda *given: proofs.append(1) or proof(*given))
    for width, seed in ((32, 0), (32, 0), (64, 0), (64, 1)):
        config = VideoLMConfig(text_config=small(hidden_size=width, head_dim=width // 4))
        torch.manual_seed(seed)
        VideoLM(config)
    assert len(proofs) == 3


def test_an_unknown_model_type_is_named():
    with pytest.raises(ValueError, match="unknown model_type 'lama'"):
        config_class("lama")
