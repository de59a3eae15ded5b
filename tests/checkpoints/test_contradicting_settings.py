"""Settings that contradict each other or stand for nothing are refused in one line with the file and the key."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_strange_files import edit, refused, written  # noqa: F401
from transformers import LlamaConfig

from vidtune.checkpoints.assembly.composition import unreadable_config
from vidtune.checkpoints.assembly.fill import require_not_vanished
from vidtune.checkpoints.fit_processor import processor_of
from vidtune.checkpoints.load import recognise_checkpoint
from vidtune.checkpoints.lora.adapter_files import adapter_from_state
from vidtune.checkpoints.lora.adapter_settings import require_plain
from vidtune.checkpoints.parts.generation import FILE, require_token_ids
from vidtune.checkpoints.parts.language_model import require_usable
from vidtune.checkpoints.parts.model_settings import require_one_rotary, require_readable
from vidtune.errors import UserError
from vidtune.models.config import VideoLMConfig
from vidtune.processing.tokenizer import load_tokenizer

PLAIN = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
LAYER = "model.layers.0.q_proj"
WHERE = Path("here")
PART_NAMES = (("towers", "video"), ("connectors", "visual"))


def said(call: Any, *arguments: Any) -> str:
    with pytest.raises((UserError, ValueError)) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "other",
    [f"{LAYER}.lora_A.weight", f"base_model.model.{LAYER}.lora_A.default.weight", f"{LAYER}.lora_A.default.weight"],
)
def test_one_factor_under_two_names_is_refused(other: str) -> None:
    factors = {f"base_model.model.{LAYER}.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
    assert adapter_from_state(factors, PLAIN, WHERE).factors.keys() == {LAYER}
    message = said(adapter_from_state, {**factors, other: torch.zeros(2, 2)}, PLAIN, WHERE)
    assert "under two names" in message and other in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in ("target_modules", "exclude_modules") for value in ("((", 5, [5], {"q_proj": 1})),
        *(("layers_pattern", value) for value in ("((", "(a)", "(?i)a", 5, ["[("], [5])),
        *(("layers_to_transform", value) for value in ("0", {"a": 0}, ["0"], 1.0)),
    ],
)
def test_names_of_layers_that_cannot_be_read_are_refused(key: str, value: Any) -> None:
    assert f"here/adapter_config.json: {key} is {value!r}" in said(require_plain, PLAIN | {key: value}, WHERE)


def test_names_of_layers_that_can_be_read_pass() -> None:
    for read in ({"target_modules": r".*\.(q|k)_proj"}, {"target_modules": ["q"], "layers_to_transform": 0}):
        assert require_plain(PLAIN | read | {"layers_pattern": ["layers", "h"], "exclude_modules": None}, WHERE) == []


@pytest.mark.parametrize(
    "settings",
    [
        *({"rope_theta": theta, "rope_parameters": {"rope_theta": 1e4}} for theta in (1e6, "x", 0, -1, True)),
        {"rope_scaling": {"type": "linear", "factor": 4}, "rope_parameters": {"rope_type": "default"}},
        {"rope_scaling": {"factor": 4}, "rope_parameters": {"factor": 2}},
    ],
)
def test_rotary_positions_that_contradict_each_other_are_refused(settings: dict[str, Any]) -> None:
    assert "remove the one that is wrong" in said(require_one_rotary, settings)


def test_rotary_positions_that_agree_pass() -> None:
    require_one_rotary({"rope_theta": 10000, "rope_parameters": {"rope_theta": 1e4}})
    require_one_rotary({"rope_scaling": {"type": "linear", "factor": 4}, "rope_theta": 5e5})
    require_one_rotary({"rope_theta": 1e6, "rope_parameters": {"full_attention": {"rope_theta": 1e4}}})


@pytest.mark.parametrize("factor", [-1, 0, float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["factor", "rope_theta"])
def test_numbers_of_rotary_positions_are_positive(key: str, factor: float) -> None:
    config = LlamaConfig()
    config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4} | {key: factor}
    assert f"{key} is {factor}" in said(require_usable, config)


@pytest.mark.parametrize("kind", ["native", "official"])
def test_both_formats_check_rotary_positions(kind: str, written: Path, tmp_path: Path) -> None:  # noqa: F811
    copy = shutil.copytree(written / kind, tmp_path / kind)
    text = {"rope_theta": 1e6, "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}
    edit(copy / "config.json", **(text if kind == "official" else {"text_config": {"model_type": "llama", **text}}))
    assert "config.json: rope_theta is 1000000.0, but 10000.0" in refused(copy)


def test_settings_that_the_family_does_not_have_are_noted(written: Path, tmp_path: Path) -> None:  # noqa: F811
    copy = shutil.copytree(written / "native", tmp_path / "native")
    assert recognise_checkpoint(copy).notes == ()
    text = {**recognise_checkpoint(copy).config["text_config"], "logits_scaling": 3.0, "is_causal": False}
    edit(copy / "config.json", text_config=text)
    [note] = recognise_checkpoint(copy).notes
    assert note == f"{copy}/config.json: settings that a llama does not have: logits_scaling, is_causal"


@pytest.mark.parametrize(
    "settings",
    [
        {"torch_dtype": "nope"},
        {"dtype": 5},
        {"text_config": {"dtype": "nn"}},
        {"num_attention_heads": 0},
        {"text_config": {"num_key_value_heads": "2"}},
        {"vocab_size": -5},
    ],
)
def test_values_with_which_no_model_can_be_read_are_named(settings: dict[str, Any]) -> None:
    [(key, value)] = settings.get("text_config", settings).items()
    assert f"here: config.json: {key} is {value!r}; expected" in said(require_readable, settings, WHERE)


def test_a_setting_that_follows_from_others_is_named() -> None:
    with pytest.raises(AttributeError) as caught:
        VideoLMConfig.from_dict({"placeholder_ids": {}})
    assert "placeholder_ids follows from other settings" in str(unreadable_config(WHERE, caught.value))


@pytest.mark.parametrize("name", ["config.json", FILE])
@pytest.mark.parametrize("kind", ["native", "official"])
def test_ids_that_no_token_has_are_refused(name: str, kind: str, written: Path, tmp_path: Path) -> None:  # noqa: F811
    copy = shutil.copytree(written / kind, tmp_path / kind)
    (copy / FILE).write_text("{}")
    whole = recognise_checkpoint(copy).config
    text = LlamaConfig(vocab_size=500)
    everything: list[Any] = [500, True, [[7]], {"a": 1}, 7.0, "7"]
    cases = {"eos_token_id": [*everything, -1, [7, 500]], "pad_token_id": [*everything, [1, 2], []]}
    for key, values in {**cases, "bos_token_id": [*everything, -1, [1]]}.items():
        for value in values:
            changed = {key: value}
            inside = name == "config.json" and kind == "native"
            edit(copy / name, **({"text_config": {**whole["text_config"], **changed}} if inside else changed))
            where = f"{copy / name}: {'text_config.' if inside else ''}{key} is {value!r}"
            assert where in said(require_token_ids, recognise_checkpoint(copy), text)
        edit(copy / name, **({"text_config": whole["text_config"]} if inside else {key: None}))
    edit(copy / name, eos_token_id=[7, 499], pad_token_id=-1, bos_token_id=0)
    require_token_ids(recognise_checkpoint(copy), text)


@pytest.mark.parametrize("changed", [{"bos_token": "nope"}, {"eos_token": "nope"}])
def test_a_token_that_the_tokenizer_lacks_is_refused(changed: dict[str, str], written: Path, tmp_path: Path) -> None:  # noqa: F811
    copy = shutil.copytree(written / "native", tmp_path / "native")
    edit(copy / "tokenizer_config.json", **changed)
    [key] = changed
    assert f"{copy / 'tokenizer_config.json'}: {key} is 'nope', which is no token" in refused(copy)


def test_the_stored_beginning_decides(written: Path, tmp_path: Path) -> None:  # noqa: F811
    copy = shutil.copytree(written / "native", tmp_path / "native")
    source = recognise_checkpoint(copy)
    config = VideoLMConfig.from_dict(source.config)
    before = processor_of(source, config).chunk_tokenizer.beginning
    for token in ("</s>", None):
        edit(copy / "tokenizer_config.json", bos_token=token)
        assert processor_of(recognise_checkpoint(copy), config).chunk_tokenizer.beginning == before == [1]
        assert load_tokenizer(copy).beginning == before
    for odd in ([99999], [-1], "x", 1.0):
        edit(copy / "processor_config.json", beginning=odd)
        assert "beginning is" in said(processor_of, recognise_checkpoint(copy), config)


@pytest.mark.parametrize(("left", "fails"), [(0, True), (9, True), (11, False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_float16_turns_into_zeros_are_named(left: int, fails: bool, dtype: torch.dtype) -> None:
    stored = torch.full((10, 100), 1e-9, dtype=dtype)
    stored.view(-1)[:left] = 1
    if fails:
        message = said(require_not_vanished, "head.weight", stored, stored.half(), WHERE)
        assert f"here: head.weight: {1000 - left} of 1000 values are too small for float16" in message
    else:
        require_not_vanished("head.weight", stored, stored.half(), WHERE)
    require_not_vanished("head.bias", stored, stored.half(), WHERE)
    require_not_vanished("head.weight", torch.zeros(3), torch.zeros(3).half(), WHERE)
    require_not_vanished("head.weight", stored, stored.bfloat16(), WHERE)


def test_a_model_in_float16_is_checked(written: Path, tmp_path: Path) -> None:  # noqa: F811
    copy = shutil.copytree(written / "native", tmp_path / "native")
    state = load_file(copy / "model.safetensors")
    name = next(name for name in state if "down_proj" in name)
    save_file(state | {name: state[name] * 1e-9}, copy / "model.safetensors", metadata={"format": "pt"})
    assert f"{name}: " in (message := refused(copy, dtype=torch.float16)) and "too small for float16" in message


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        *((group, value, f"{group} is ") for group in ("towers", "streams", "packages") for value in ("text", [1], 0)),
        *(
            (f"{group}.strange", value, f"{group}.strange is ")
            for group in ("towers", "connectors", "streams", "alignments")
            for value in ("text", None, [1], 5, True)
        ),
        *(
            (f"streams.video.{key}", value, f"streams.video.{key} is ")
            for key in ("tower", "taps")
            for value in (5, {})
        ),
        ("streams.video.connector_settings", "text", "streams.video.connector_settings is "),
        *(("added_tokens.<a>", value, "added_tokens.<a> is ") for value in ("5", None, 1.5)),
        *((f"{group}.{name}.type", [], f"unknown {group[:-1]} type") for group, name in PART_NAMES),
        ("text_config", "text", 'text_config is "text"; expected an object'),
        ("text_config.model_type", [], "unknown model_type"),
        ("system", ["video_llava"], "system is "),
        ("layer_program", {"after": 1}, "layer_program is "),
        ("layer_program", ["text"], "layer_program[0] is "),
        ("towers.video.patch_size", 0, "patch_size cannot be 0"),
        ("alignments.video", {"input_size": 4, "output_size": 4, "layers": 5}, "alignments.video.layers is 5"),
        ("alignments.video", {"input_size": 4, "output_size": 4, "layers": [0, 1], "num_heads": 0}, "cannot be 0"),
    ],
)
def test_a_value_of_another_type_is_named_and_not_in_the_words_of_python(place: str, value: Any, expected: str) -> None:
    given: dict[str, Any] = {
        "system": "video_llava",
        "text_config": {"model_type": "llama"},
        "towers": {"video": {"type": "clip"}},
        "connectors": {"visual": {"type": "mlp", "input_size": 1024, "output_size": 4096}},
        "streams": {"video": {"tower": "video", "connector": "visual"}},
    }
    *outer, last = place.split(".")
    inner = given
    for key in outer:
        inner = inner.setdefault(key, {})
    inner[last] = value
    assert expected in said(read_all, given)


def read_all(given: dict[str, Any]) -> None:
    config = VideoLMConfig.from_dict(given)
    for name in config.towers:
        config.tower(name)
    for name in config.connectors:
        config.connector(name)
