"""Parts that hold nothing of what they are named for, names that no system has, code of a system that fails."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up_system import system_like
from safetensors.torch import load_file, save_file
from tiny_models import TOKENIZER, TOWER
from transformers import AutoConfig, AutoModelForCausalLM

from vidtune.checkpoints.build import build_config, build_model
from vidtune.checkpoints.explain import explain
from vidtune.checkpoints.fit_processor import build_processor
from vidtune.checkpoints.load import Checkpoint, load_checkpoint
from vidtune.checkpoints.parts.claims import find_format
from vidtune.checkpoints.publication import KeyMap, NamedParts
from vidtune.checkpoints.recognise import recognise
from vidtune.checkpoints.report import LoadReport
from vidtune.checkpoints.write import save_checkpoint
from vidtune.errors import UserError
from vidtune.recipe.types import Recipe
from vidtune.registry import SYSTEMS

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
TOWERS = {"image": TOWER, "video": {**TOWER, "num_frames": 2, "patch_size": 8}}
ROWS = 560


def write_llm(folder: Path, **sizes: Any) -> Path:
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **{**SIZES, "vocab_size": ROWS, **sizes})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    shutil.copy(TOKENIZER, folder / "tokenizer.model")
    return folder


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llm(tmp_path_factory.mktemp("llm"))


@pytest.fixture(scope="module")
def deltas() -> Iterator[str]:
    """Name of a system that publishes its language model as differences."""
    delta = replace(
        SYSTEMS["video_llava"].publication.formats[0],
        name="delta",
        keys=KeyMap((("", "language_model."),)),
        matches=lambda config, shapes: config.get("model_type") == "differing",
        read_config=None,
        write_config=lambda config, towers: {
            "model_type": "differing",
            "vocab_size": config.text_config.vocab_size,
        },
        partial=("language_model",),
        difference=True,
    )
    named = {"formats": (delta,), "named_parts": lambda config: NamedParts(TOWERS)}
    with system_like("video_llava", "differing", **named) as system:
        yield system.name


def recipe(llm: Any, system: str = "video_llava", **parts: Any) -> Recipe:
    return Recipe(**{"system": system, "language_model": str(llm), "towers": TOWERS, "tokenizer": None, **parts})


def sizes_of(model_type: str) -> dict[str, Any]:
    return {"model_type": model_type, "vocab_size": ROWS, **SIZES}


@pytest.mark.parametrize("make", [build_model, lambda recipe: explain(recognise(recipe))], ids=["load", "explain"])
def test_a_language_model_folder_without_its_weights_is_refused(make, llm, tmp_path):
    folder = shutil.copytree(llm, tmp_path / "llm")
    save_file({"model.rotary_emb.inv_freq": torch.ones(4)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"llm: holds no weights of language_model \(of its 1 keys\)"):
        make(recipe(folder))


def test_explain_refuses_missing_keys_and_other_shapes(llm, tmp_path):
    folder = shutil.copytree(llm, tmp_path / "llm")
    state = load_file(folder / "model.safetensors")
    save_file({**state, "model.norm.weight": torch.ones(7)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"language_model.model.norm.weight: shape \(7,\) in the file, \(32,\) by its"):
        explain(recognise(recipe(folder)))
    del state["model.norm.weight"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"1 keys missing as language_model checkpoint, first .*model.norm.weight"):
        explain(recognise(recipe(folder)))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"towers": {**TOWERS, "vdieo": {}}}, "towers: system video_llava has no tower 'vdieo'; did you mean 'video'"),
        ({"towers": {**TOWERS, "vdieo": "LLM"}}, "towers: system video_llava has no tower 'vdieo'; did you mean"),
        ({"connectors": {"vsual": {"depth": 3}}}, "connectors: system video_llava has no connector 'vsual'; did you"),
    ],
    ids=str,
)
def test_names_that_the_system_does_not_have_are_refused(parts, message, llm):
    towers = {name: str(llm) if spec == "LLM" else spec for name, spec in parts.get("towers", TOWERS).items()}
    with pytest.raises(UserError, match=message):
        build_config(recipe(llm, **{**parts, "towers": towers}))


def write_difference(llm: Path, folder: Path, rows: int, vocab_size: Any) -> Path:
    folder.mkdir()
    state = load_file(llm / "model.safetensors")
    state = {n: t.new_zeros(rows, t.shape[1]) if len(t) == ROWS else torch.zeros_like(t) for n, t in state.items()}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "differing", "vocab_size": vocab_size}))
    return folder


@pytest.mark.parametrize("vocab_size", ["abc", [1], 32003.5, -5, True, ROWS + 3], ids=str)
def test_a_wrong_vocabulary_of_differences_is_refused(vocab_size, deltas, llm, tmp_path):
    folder = write_difference(llm, tmp_path / "delta", ROWS, vocab_size)
    message = (
        "vocab_size in its config is 563"
        if vocab_size == ROWS + 3
        else "vocab_size is .*; expected a (positive|number)"
    )
    with pytest.raises(UserError, match=rf"delta(/config\.json)?: .*{message}"):
        load_checkpoint(folder, base=str(llm), system=deltas)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_hidden_layers": 1}, r"layers\.1\..*: the base lacks it; name the right base"),
        ({"intermediate_size": 40}, r"shape \(48, 32\) in the model, \(40, 32\) in the base; name the right base"),
        (None, "whole: is a whole video model; name the language model alone"),
    ],
    ids=str,
)
def test_differences_to_another_base_are_not_written(sizes, message, deltas, llm, tmp_path):
    model = build_model(recipe(llm, deltas))
    whole = Checkpoint(model, build_processor(model.config, llm), LoadReport("memory"))
    if sizes is None:
        save_checkpoint(whole, tmp_path / "whole")
        base = tmp_path / "whole"
    else:
        base = write_llm(tmp_path / "other", **sizes)
    with pytest.raises(UserError, match=message):
        save_checkpoint(whole, tmp_path / "out", "delta", str(base))
    save_checkpoint(whole, tmp_path / "out", "delta", str(llm))


@pytest.mark.parametrize(
    "model_type", ["t5", "clip", "vit", "whisper", "llava", "qwen2_vl", "dbrx", "ministral", "exaone4", "zamba2"]
)
def test_a_language_model_that_cannot_be_built_is_one_line(model_type):
    sizes = recipe(None, language_model=sizes_of(model_type), tokenizer=str(TOKENIZER.parent))
    try:
        build_model(sizes)
    except UserError as error:
        assert "language_model" in str(error) or "language model" in str(error)
        assert "\n" not in str(error)


def raises(*arguments: Any) -> Any:
    raise ZeroDivisionError("division by zero")


@pytest.mark.parametrize(
    ("field", "function", "message"),
    [
        ("build_config", lambda *sizes: None, "system odd: build_config returns NoneType; expected a VideoLMConfig"),
        ("build_config", raises, "system odd: build_config fails: ZeroDivisionError: division by zero"),
        (
            "build_config",
            lambda *sizes: SYSTEMS["video_llava"].architecture.build_config(*sizes),
            "system odd: build_config makes a config of system 'video_llava'; write system='odd'",
        ),
        ("preprocessing", raises, "system odd: preprocessing fails: ZeroDivisionError: division by zero"),
        ("preprocessing", lambda config: None, "system odd: preprocessing fails: TypeError"),
        ("preprocessing", lambda config: {}, "system odd: preprocessing gives nothing for stream 'image'"),
        ("preprocessing", lambda config: {"image": 1, "video": 2}, "system odd: preprocessing or placeholders fails"),
    ],
)
def test_functions_of_a_system_that_fail_are_one_line(field, function, message, llm):
    with system_like("video_llava", "plain") as system:
        odd = replace(system, name="odd", architecture=replace(system.architecture, **{field: function}))
        if field == "preprocessing":
            build = lambda *sizes: _named(system.architecture.build_config(*sizes), "odd")  # noqa: E731
            odd = replace(odd, architecture=replace(odd.architecture, build_config=build))
        SYSTEMS.register("odd", odd)
        try:
            with pytest.raises(UserError, match=message) as raised:
                build_processor(build_config(recipe(llm, "odd")), llm)
        finally:
            SYSTEMS.unregister("odd")
    assert "\n" not in str(raised.value)


def _named(config: Any, system: str) -> Any:
    config.system = system
    return config


@pytest.mark.parametrize(("function", "message"), [(raises, "fails: Zero"), (lambda config: None, "returns NoneType")])
def test_named_parts_that_fail_are_one_line(function, message, llm, deltas, tmp_path):
    formats = SYSTEMS[deltas].publication.formats
    folder = write_difference(llm, tmp_path / "delta", ROWS, ROWS)
    with (
        system_like("video_llava", "odd", formats=formats, named_parts=function),
        pytest.raises(UserError, match=f"system odd: named_parts {message}"),
    ):
        load_checkpoint(folder, base=str(llm), system="odd")


def test_a_matcher_that_fails_is_left_out_for_other_systems(deltas):
    formats = (replace(SYSTEMS[deltas].publication.formats[0], matches=raises),)
    with system_like("video_llava", "odd", formats=formats):
        with pytest.warns(UserWarning, match="system odd: matches of a format fails: .*; it is left out"):
            assert find_format({"model_type": "differing"}, {}, Path("place"))[0] == deltas
        with pytest.raises(UserError, match="system odd: matches of a format fails: ZeroDivisionError"):
            find_format({"model_type": "differing"}, {}, Path("place"), system="odd")


def test_a_system_under_another_name_is_refused():
    with pytest.raises(UserError, match=r"system 'alias': its System.name is 'video_llava'; register it under that"):
        SYSTEMS.register("alias", SYSTEMS["video_llava"])
