"""BEATs against every tensor of the original, and what a tower has to keep up whatever its sizes."""

import math

import pytest
import torch
from longvale_fixture import (
    assert_keys_both_ways,
    assert_restores,
    expected,
    load_tower,
    needs_fixture,
    read,
    wave,
    weights,
)
from torch import nn
from torch.testing import assert_close
from transformers import AutoConfig

from vidtune.checkpoints.assembly.apply import assemble
from vidtune.checkpoints.recognise import recognise
from vidtune.checkpoints.report import LoadReport, rename
from vidtune.errors import UserError
from vidtune.media.preprocessing.sound import FbankPreprocessing
from vidtune.models.config import VideoLMConfig
from vidtune.models.towers import beats
from vidtune.models.towers.base import tower_config
from vidtune.models.towers.beats import BeatsTowerConfig, relative_buckets
from vidtune.models.video_lm import VideoLM
from vidtune.systems.parts.microsoft_beats import BEATS_TOWER, beats_sizes

TINY = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "patch_width": 24,
    "position_kernel": 8,
    "position_groups": 4,
    "num_buckets": 16,
    "max_distance": 20,
    "window_frames": 64,
    "num_mel_bins": 32,
}
PUBLISHED = {
    "input_patch_size": 16,
    "embed_dim": 512,
    "conv_bias": False,
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "deep_norm": True,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "dropout_input": 0.0,
    "encoder_layerdrop": 0.05,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "relative_position_embedding": True,
    "num_buckets": 320,
    "max_distance": 800,
    "gru_rel_pos": True,
    "layer_wise_gradient_decay_ratio": 0.6,
    "finetuned_model": False,
}


def tiny(**sizes) -> nn.Module:
    """A tower none of whose weights is a special value."""
    torch.manual_seed(0)
    tower = BeatsTowerConfig(**{**TINY, **sizes}).build().eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return tower


def windows(*counts: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(count, TINY["window_frames"], TINY["num_mel_bins"], generator=generator) for count in counts]


def published_file(path, cfg: dict | None = None, **extra):
    torch.save({"cfg": cfg or read("config.json")["beats"], "model": {**weights("beats."), **extra}}, path)
    return path


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    return load_tower("beats", published_file(tmp_path_factory.mktemp("beats") / "beats.pt"), BEATS_TOWER)[0]


@needs_fixture
@torch.no_grad()
def test_every_hidden_state_equals_the_original(official):
    theirs = expected("beats.A.")
    patches = official.patches(theirs["fbank_window0"][None])
    assert_close(patches, theirs["patch_embed"], atol=1e-5, rtol=0)
    projected = official.project(patches)
    assert_close(projected, theirs["after_post_extract_proj_w0"], atol=1e-5, rtol=0)
    assert_close(official.encoder.pos_conv(projected), theirs["pos_conv_out_w0"], atol=1e-5, rtol=0)
    start, *states = official.encoder.hidden_states(projected)
    assert_close(start, theirs["encoder_in_w0"], atol=1e-5, rtol=0)
    assert len(states) == sum(name.startswith("layer") for name in theirs)
    for number, state in enumerate(states):
        assert_close(state, theirs[f"layer{number}_w0"], atol=2e-5, rtol=0)
    bias = official.encoder.relative_attention_bias(patches.shape[1])
    assert_close(bias[:, :1], theirs["position_bias"], atol=0, rtol=0)
    assert_close(official(theirs["fbank_window0"][None, None])[0], theirs["pooled"][:1], atol=1e-5, rtol=0)


@needs_fixture
@pytest.mark.parametrize(("name", "samples"), [("A", "audio_n"), ("B", "audioB_n")])
@torch.no_grad()
def test_vectors_of_a_wave_equal_the_original(official, name, samples):
    """The original took the mean of a left channel and a right one half as loud."""
    windows = FbankPreprocessing().apply(0.75 * wave(read("config.json")[samples]))
    theirs = expected(f"beats.{name}.")
    assert_close(official([windows])[0], theirs["pooled"], atol=2e-5, rtol=0)
    if "last_hidden_w1_every8" in theirs:
        last = official.encoder(official.project(official.patches(windows[1:2])))
        assert_close(last[:, ::8], theirs["last_hidden_w1_every8"], atol=2e-4, rtol=0)


@needs_fixture
def test_buckets_equal_the_original():
    tensors, sizes = expected("beats."), read("config.json")["beats"]
    distances = torch.arange(-255, 256)
    full = tensors["bucket_nb320_md800_offsets_-255..255"]
    assert relative_buckets(distances, 320, 800).tolist() == full.tolist()
    small = tensors["bucket_tiny_offsets_-255..255"]
    assert relative_buckets(distances, sizes["num_buckets"], sizes["max_distance"]).tolist() == small.tolist()


@needs_fixture
def test_published_keys_fit_at_full_size_both_ways():
    with torch.device("meta"):
        tower = tower_config({"type": "beats", **beats_sizes(PUBLISHED)}).build()
    assert_keys_both_ways(tower, BEATS_TOWER, read("full_keys_parts.json")["beats"])
    assert tower_config({"type": "beats", **beats_sizes(PUBLISHED)}) == BeatsTowerConfig()


@needs_fixture
def test_published_tensors_survive_reading_and_writing():
    assert_restores(BEATS_TOWER, weights("beats."))


@needs_fixture
def test_classifier_of_a_finetuned_model_is_left_out_and_reported(tmp_path, official):
    cfg = {**read("config.json")["beats"], "finetuned_model": True, "predictor_class": 527, "predictor_dropout": 0.0}
    extra = {"predictor.weight": torch.ones(527, 32), "predictor.bias": torch.ones(527)}
    tower, report = load_tower("beats", published_file(tmp_path / "tuned.pt", cfg, **extra), BEATS_TOWER)
    window = expected("beats.A.")["fbank_window0"][None, None]
    assert torch.equal(tower(window), official(window))
    assert report.left_out == {"the classifier of a fine-tuned model": 2}


@needs_fixture
def test_copies_of_the_bias_that_differ_are_refused():
    state = weights("beats.")
    name = "encoder.layers.1.self_attn.relative_attention_bias.weight"
    state[name] = state[name] + 1
    with pytest.raises(UserError, match=r"layers\.0.*layers\.1.*hold different values"):
        rename(state, BEATS_TOWER.keys, LoadReport("beats"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_fn": "glu"}, "'glu' is not one of"),
        ({"rescale_init": True, "zzz": 1}, "not known to have: rescale_init, zzz"),
        ({"layer_norm_first": True}, "exclude each other"),
        ({"encoder_attention_heads": 7}, "7 heads"),
        ({"num_buckets": 322}, "322 buckets"),
        ({"input_patch_size": "16"}, "beats"),
    ],
)
def test_settings_we_do_not_have_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        tower_config({"type": "beats", **beats_sizes({**PUBLISHED, **change})})


def test_settings_a_file_does_not_name_mean_what_they_mean_to_the_original():
    sizes = beats_sizes({"input_patch_size": 16, "finetuned_model": False})
    tower = tower_config({"type": "beats", **sizes})
    assert (tower.dropout, tower.layer_dropout, tower.relative_positions, tower.max_distance) == (0.1, 0.0, False, 1280)
    with pytest.raises(ValueError, match="patches of side -1"):
        tower_config({"type": "beats", **beats_sizes({"embed_dim": 512})})
    with pytest.raises(ValueError, match="no settings"):
        beats_sizes({})


@torch.no_grad()
def test_lists_of_different_lengths_equal_one_by_one(monkeypatch):
    tower, items = tiny(), windows(3, 0, 1, 5)
    monkeypatch.setattr(beats, "WINDOWS_AT_ONCE", 4)
    together = tower(items)
    assert [tuple(features.shape) for features in together] == [(3, 32), (0, 32), (1, 32), (5, 32)]
    monkeypatch.setattr(beats, "WINDOWS_AT_ONCE", 100)
    for item, features in zip(items, together, strict=True):
        assert tower.config.num_tokens(tuple(item.shape)) == len(features)
        for window, feature in zip(item, features, strict=True):
            assert_close(tower([window[None]])[0][0], feature, atol=1e-5, rtol=0)
    stacked = tower(torch.stack([items[0], items[3][:3]]))
    assert_close(stacked, torch.stack([together[0], together[3][:3]]), atol=1e-5, rtol=0)
    assert tower(windows(0, 0))[1].shape == (0, 32)


def test_windows_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(64, 32\), got \(2, 48, 32\)"):
        tiny()([torch.zeros(2, 48, 32)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_is_near(dtype):
    tower, item = tiny(), windows(4)[0]
    plain = tower([item])[0]
    half = tower.to(dtype)([item.to(dtype)])[0]
    assert half.dtype == dtype
    assert_close(half.float(), plain, atol=0.05, rtol=0.05)


@torch.no_grad()
def test_attention_does_not_overflow_in_half_precision():
    attention = tiny().encoder.layers[0].self_attn.half()
    queries = torch.full((1, 4, 5, 8), 200.0, dtype=torch.float16)
    keys = queries + torch.arange(5.0).half().view(1, 1, 5, 1)
    assert (queries @ keys.transpose(-1, -2)).isinf().any()
    exact = ((queries.double() @ keys.double().transpose(-1, -2)) / math.sqrt(8)).softmax(dim=-1)
    assert_close(attention.weights(queries, keys, None).double(), exact, atol=1e-3, rtol=0)


def test_every_weight_gets_a_gradient_that_decays_with_depth():
    def gradients(decay: float) -> dict[str, torch.Tensor]:
        tower = tiny(gradient_decay=decay)
        tower(windows(2))[0].square().sum().backward()
        return {name: parameter.grad for name, parameter in tower.named_parameters()}

    whole, decayed = gradients(1.0), gradients(0.5)
    for name, gradient in whole.items():
        # A key's bias moves all logits of a query alike: softmax does not see it.
        assert name.endswith("k_proj.bias") or gradient.abs().max() > 0, name
    for layer, factor in ((2, 1.0), (1, 0.5), (0, 0.25)):
        name = f"encoder.layers.{layer}.fc1.weight"
        assert_close(decayed[name], factor * whole[name])
    assert_close(decayed["patch_embedding.weight"], 0.125 * whole["patch_embedding.weight"])


def test_layers_are_dropped_in_training_alone():
    tower, item = tiny(layer_dropout=1.0), windows(2)[0]
    kept = tower([item])[0]
    projected = tower.project(tower.patches(item))
    assert_close(kept, tiny(layer_dropout=0.0)([item])[0])
    dropped = tower.train()([item])[0]
    assert_close(dropped, tower.encoder.add_positions(projected).mean(dim=1))
    dropped.sum().backward()
    assert all(parameter.grad is not None for parameter in tower.encoder.layers.parameters())


@pytest.mark.parametrize("pre_norm", [False, True])
@torch.no_grad()
def test_layers_without_relative_positions_are_plain_transformer_layers(pre_norm):
    tower = tiny(relative_positions=False, deep_norm=False, pre_norm=pre_norm)
    x = torch.randn(2, 8, 32)
    start, *states = tower.encoder.hidden_states(x)
    plain = start
    for layer, state in zip(tower.encoder.layers, states, strict=True):
        reference = nn.TransformerEncoderLayer(32, 4, 40, 0.0, "gelu", batch_first=True, norm_first=pre_norm).eval()
        attention = layer.self_attn
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        reference.self_attn.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        reference.self_attn.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        pairs = {
            "self_attn.out_proj": attention.out_proj,
            "linear1": layer.fc1,
            "linear2": layer.fc2,
            "norm1": layer.self_attn_layer_norm,
            "norm2": layer.final_layer_norm,
        }
        for name, part in pairs.items():
            reference.get_submodule(name).load_state_dict(part.state_dict())
        plain = reference(plain)
        assert_close(state, plain, atol=1e-5, rtol=1e-5)
    final = tower.encoder.layer_norm(plain) if pre_norm else plain
    assert_close(tower.encoder(x), final, atol=1e-5, rtol=1e-5)


def test_equal_widths_need_no_projection():
    tower = tiny(patch_width=32)
    assert not [name for name in tower.state_dict() if name.startswith("post_extract_proj")]
    assert tower(windows(1))[0].shape == (1, 32)


@torch.no_grad()
def test_fresh_convolution_has_the_length_of_its_directions():
    conv = BeatsTowerConfig(**TINY).build().encoder.pos_conv
    assert_close(conv.gain, torch.linalg.vector_norm(conv.direction, dim=(0, 1), keepdim=True))
    assert 0 < conv.direction.std() < 1


def test_a_model_with_the_tower_survives_saving(tmp_path):
    text = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = VideoLMConfig(
        text_config=AutoConfig.for_model("llama", **text, **heads),
        towers={"audio": {"type": "beats", **TINY}},
        connectors={"audio": {"type": "mlp", "input_size": 32, "output_size": 16, "depth": 1}},
        streams={"audio": {"tower": "audio", "connector": "audio"}},
    )
    model = VideoLM(config).eval()
    model.save_pretrained(tmp_path)
    loaded, _ = assemble(recognise(tmp_path))
    saved = model.state_dict()
    assert saved.keys() == loaded.state_dict().keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in loaded.state_dict().items())
