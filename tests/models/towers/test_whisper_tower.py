"""Whisper's encoder against the original's features, and what a tower has to keep up whatever its sizes."""

import pytest
import torch
from longvale_fixture import assert_keys_both_ways, expected, load_tower, needs_fixture, read, wave, weights
from safetensors.torch import save_file
from torch.testing import assert_close
from transformers import AutoConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import sinusoids

from vidtune.checkpoints.assembly.apply import assemble
from vidtune.checkpoints.assembly.fill import drawn_weights
from vidtune.checkpoints.recognise import recognise
from vidtune.models.config import VideoLMConfig
from vidtune.models.towers import whisper
from vidtune.models.towers.base import tower_config
from vidtune.models.towers.whisper import WhisperTowerConfig
from vidtune.models.video_lm import VideoLM
from vidtune.systems.parts.openai_whisper import ENCODER_TOWER, encoder_sizes

TINY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_mel_bins": 6,
    "max_source_positions": 15,
    "window_positions": 4,
}
THEIRS = {
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 24,
    "vocab_size": 60,
    "num_mel_bins": 6,
    "max_source_positions": 15,
    "max_target_positions": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
CHUNK = 30 * 16000


def tiny(**sizes):
    torch.manual_seed(0)
    tower = WhisperTowerConfig(**{**TINY, **sizes}).build().eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return tower


def rows(*counts: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(count, 6, 30, generator=generator) for count in counts]


def log_mel(sound) -> torch.Tensor:
    """As the original has it: pieces of 30 s, each through the extractor. Shape: (samples,) -> (R, M, F)"""
    extractor = WhisperFeatureExtractor(feature_size=80)
    pieces = [sound[first : first + CHUNK] for first in range(0, len(sound), CHUNK)]
    found = [extractor(piece, sampling_rate=16000, return_tensors="pt").input_features for piece in pieces]
    return torch.cat(found)


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    WhisperConfig(**read("config.json")["whisper"]).save_pretrained(folder)
    state = {f"model.encoder.{name}": tensor for name, tensor in weights("whisper_encoder.").items()}
    save_file(state, folder / "model.safetensors")
    return load_tower("whisper", folder, ENCODER_TOWER)[0]


@needs_fixture
@pytest.mark.parametrize(("name", "seconds"), [("s0", None), ("s1_first6s", 6)])
@torch.no_grad()
def test_pooled_features_equal_the_original(official, name, seconds):
    sound = wave(read("config.json")["asr_n"])[: seconds and seconds * 16000]
    values, theirs = log_mel(sound), expected(f"whisper.{name}.")
    if "log_mel_stride40" in theirs:
        assert_close(values[:, :, ::40], theirs["log_mel_stride40"], atol=1e-4, rtol=0)
    features = official([values])[0]
    assert official.config.num_tokens(tuple(values.shape)) == len(theirs["pooled"])
    assert_close(features, theirs["pooled"], atol=1e-4, rtol=0)


@needs_fixture
def test_published_keys_fit_at_full_size_both_ways():
    with torch.device("meta"):
        tower = WhisperTowerConfig().build()
    assert_keys_both_ways(tower, ENCODER_TOWER, read("full_keys_parts.json")["whisper_large_v2_encoder"])


def test_sizes_of_large_v2():
    published = {
        "d_model": 1280,
        "encoder_layers": 32,
        "encoder_attention_heads": 20,
        "encoder_ffn_dim": 5120,
        "num_mel_bins": 80,
        "max_source_positions": 1500,
        "activation_function": "gelu",
    }
    sizes = encoder_sizes({"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"], **published})
    assert tower_config({"type": "whisper", **sizes}) == WhisperTowerConfig()
    assert WhisperTowerConfig().num_tokens((8, 80, 3000)) == 46
    with pytest.raises(ValueError, match="is not Whisper"):
        encoder_sizes({"model_type": "bert"})
    with pytest.raises(ValueError, match="give the folder"):
        encoder_sizes({}, {"encoder.conv1.weight": (16, 6, 3)})


@torch.no_grad()
def test_decoder_of_a_whole_model_is_left_out_and_reported(tmp_path):
    whole = WhisperForConditionalGeneration(WhisperConfig(**THEIRS)).eval()
    whole.save_pretrained(tmp_path)
    tower, report = load_tower("whisper", tmp_path, ENCODER_TOWER, window_positions=4)
    values = rows(3)[0]
    assert_close(tower.encode(values), whole.model.encoder(values).last_hidden_state, atol=1e-5, rtol=0)
    decoder = {name for name in whole.state_dict() if ".decoder." in name}
    assert report.left_out == {"the decoder": len(decoder)} and report.loaded == len(tower.state_dict())


@torch.no_grad()
def test_windows_cross_the_borders_of_rows_and_the_rest_is_dropped():
    tower, values = tiny(), rows(3)[0]
    encoded = torch.cat([tower.encode(row[None])[0] for row in values])
    windows = [encoded[first : first + 4].mean(dim=0) for first in range(0, 44, 4)]
    assert_close(tower([values])[0], torch.stack(windows), atol=1e-5, rtol=0)


@torch.no_grad()
def test_lists_of_different_lengths_equal_one_by_one(monkeypatch):
    tower, items = tiny(), rows(3, 0, 1, 6)
    monkeypatch.setattr(whisper, "ROWS_AT_ONCE", 4)
    together = tower(items)
    monkeypatch.setattr(whisper, "ROWS_AT_ONCE", 100)
    for item, features in zip(items, together, strict=True):
        assert features.shape == (tower.config.num_tokens(tuple(item.shape)), 16)
        assert_close(tower([item])[0], features, atol=1e-5, rtol=0)
    stacked = tower(torch.stack([items[0], items[3][:3]]))
    assert_close(stacked[1], tower([items[3][:3]])[0], atol=1e-5, rtol=0)
    assert tower(rows(0))[0].shape == (0, 16)


@pytest.mark.parametrize(("positions", "window"), [(15, 4), (15, 15), (12, 5)])
@torch.no_grad()
def test_tokens_are_known_for_any_number_of_rows(positions, window):
    tower = tiny(max_source_positions=positions, window_positions=window)
    for count in range(6):
        values = torch.zeros(count, 6, 2 * positions)
        assert len(tower([values])[0]) == tower.config.num_tokens(tuple(values.shape))
        assert int(tower.config.tokens_per_row * count) == tower.config.num_tokens(tuple(values.shape))


def test_sizes_and_rows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 heads"):
        WhisperTowerConfig(**{**TINY, "num_attention_heads": 3})
    with pytest.raises(ValueError, match=r"window_positions 16 is not in 1\.\.15"):
        WhisperTowerConfig(**{**TINY, "window_positions": 16})
    with pytest.raises(ValueError, match=r"rows of \(6, 30\), got \(1, 6, 28\)"):
        tiny()([torch.zeros(1, 6, 28)])


@torch.no_grad()
def test_bfloat16_is_near():
    tower, item = tiny(), rows(2)[0]
    plain = tower([item])[0]
    half = tower.to(torch.bfloat16)([item.bfloat16()])[0]
    assert half.dtype == torch.bfloat16
    assert_close(half.float(), plain, atol=0.1, rtol=0.05)


def test_every_weight_gets_a_gradient():
    tower = tiny().requires_grad_(True)
    tower(rows(2))[0].square().sum().backward()
    for name, parameter in tower.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_a_fresh_model_has_sines_for_positions_and_survives_saving(tmp_path):
    text = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = VideoLMConfig(
        text_config=AutoConfig.for_model("llama", **text, **heads),
        towers={"speech": {"type": "whisper", **TINY}},
        connectors={"speech": {"type": "mlp", "input_size": 16, "output_size": 16, "depth": 1}},
        streams={"speech": {"tower": "speech", "connector": "speech"}},
    )
    model = VideoLM(config).eval()
    positions = model.towers["speech"].encoder.embed_positions.weight
    drawn = drawn_weights(config, [])["towers.speech.encoder.embed_positions.weight"]
    assert torch.equal(positions, sinusoids(15, 16)) and torch.equal(drawn, positions)
    with torch.no_grad():
        positions.add_(1.0)
    model.save_pretrained(tmp_path)
    loaded, _ = assemble(recognise(tmp_path))
    saved = model.state_dict()
    assert saved.keys() == loaded.state_dict().keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in loaded.state_dict().items())
