"""Checkpoints that are wrong in themselves or told too much: each is refused with one line that names the file."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from tiny_models import TOKENIZER, tiny_model
from transformers import LlamaTokenizer

from vidtune.checkpoints.fit_processor import build_processor
from vidtune.checkpoints.load import Checkpoint, load_checkpoint
from vidtune.checkpoints.lora.adapter_files import adapter_config, adapter_from_state
from vidtune.checkpoints.lora.bundle import LANGUAGE_MODEL, Base, weight_sample, write_bundle
from vidtune.checkpoints.lora.injection import add_adapters
from vidtune.checkpoints.report import LoadReport
from vidtune.checkpoints.write import save_checkpoint
from vidtune.errors import UserError
from vidtune.recipe.types import LoRA

NAN = float("nan")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a model of ours, the same in its published format, and a bundle that stands on the first."""
    root = tmp_path_factory.mktemp("written")
    (root / "tokenizer").mkdir()
    shutil.copy(TOKENIZER, root / "tokenizer/tokenizer.model")
    LlamaTokenizer.from_pretrained(root / "tokenizer").save_pretrained(root / "tokenizer")
    model = tiny_model()
    processor = build_processor(model.config, root / "tokenizer")
    checkpoint = Checkpoint(model, processor, LoadReport("memory"))
    save_checkpoint(checkpoint, root / "native")
    save_checkpoint(checkpoint, root / "official", "official")
    settings, sample = LoRA(rank=2, alpha=4), weight_sample(model)
    layers = add_adapters(model.language_model, settings, 0, "test")
    factors = get_peft_model_state_dict(model.language_model, adapter_name="default")
    adapter = adapter_from_state(factors, adapter_config(settings, layers, "native", "CAUSAL_LM"), root)
    (root / "bundle").mkdir()
    write_bundle(root / "bundle", Base(checkpoint=str(root / "native")), sample, {LANGUAGE_MODEL: adapter}, {})
    model.config.save_pretrained(root / "bundle")
    processor.save_pretrained(root / "bundle")
    return root


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refused(place: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_checkpoint(place, **options)
    message = str(caught.value)
    assert "\n" not in message and str(place.name) in message
    return message


def outside(copy: Path) -> str:
    shutil.copytree(copy, copy.parent / "elsewhere")
    return "../elsewhere"


def by_symlink(copy: Path) -> str:
    outside(copy)
    (copy / "link").symlink_to(copy.parent / "elsewhere")
    return "link"


@pytest.mark.parametrize("folder", [outside, by_symlink, lambda copy: "/etc", lambda copy: "a\0b"])
def test_an_adapter_outside_its_bundle_is_refused(folder: Callable[[Path], str], written: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(written / "bundle", tmp_path / "bundle")
    edit(copy / "bundle.json", adapters={LANGUAGE_MODEL: folder(copy)})
    assert "is outside the folder of the bundle" in refused(copy)


@pytest.mark.parametrize("kind", ["native", "official"])
def test_a_whole_model_takes_no_base(kind: str, written: Path) -> None:
    assert "is a whole model; leave out --model-base" in refused(written / kind, base=str(written / "native"))


@pytest.mark.parametrize("kind", ["native", "bundle"])
def test_a_model_of_ours_takes_another_tokenizer(kind: str, written: Path, tmp_path: Path) -> None:
    other = shutil.copytree(written / "tokenizer", tmp_path / "other")
    edit(other / "tokenizer_config.json", model_max_length=77)
    loaded = load_checkpoint(written / kind, tokenizer=str(other))
    assert loaded.processor.tokenizer.model_max_length == 77
    assert loaded.processor.streams == load_checkpoint(written / kind).processor.streams


def test_bundles_that_stand_on_themselves_are_refused(written: Path, tmp_path: Path) -> None:
    one, other = (shutil.copytree(written / "bundle", tmp_path / name) for name in ("one", "other"))
    (tmp_path / "link").symlink_to(one)
    edit(one / "bundle.json", base={"checkpoint": str(one)})
    assert f"stands on itself ({one} -> {one})" in refused(one)
    edit(one / "bundle.json", base={"checkpoint": str(other)})
    edit(other / "bundle.json", base={"checkpoint": str(tmp_path / "link")})
    with pytest.raises(UserError, match="stands on itself"):
        load_checkpoint(one)


@pytest.mark.parametrize("wrong", [{"system": " "}, {"language_model": {"num_hidden_layers": {}}}])
def test_wrong_parts_of_a_bundle_are_named_by_their_file(wrong: dict[str, Any], written: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(written / "bundle", tmp_path / "bundle")
    parts = {"system": "video_llava", "language_model": {}, "tokenizer": str(written / "tokenizer"), **wrong}
    edit(copy / "bundle.json", base={"parts": parts})
    assert refused(copy).startswith(f"{copy / 'bundle.json'}: ")


@pytest.mark.parametrize("r", [0, -2, 3, 2.0, "2", None, True, NAN])
def test_a_rank_that_is_not_that_of_the_factors_is_refused(r: Any, written: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(written / "bundle", tmp_path / "bundle")
    edit(copy / "adapter_config.json", r=r)
    assert f"adapter_config.json: r is {r!r}" in refused(copy)


@pytest.mark.parametrize("alpha", ["4", None, True, NAN, float("inf")])
def test_a_scale_that_is_no_number_is_refused(alpha: Any, written: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(written / "bundle", tmp_path / "bundle")
    edit(copy / "adapter_config.json", lora_alpha=alpha)
    assert f"adapter_config.json: lora_alpha is {alpha!r}" in refused(copy)


@pytest.mark.parametrize("kind", ["native", "official"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_point_numbers_are_refused(
    dtype: torch.dtype, kind: str, written: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(written / kind, tmp_path / "copy")
    state = load_file(copy / "model.safetensors")
    name = next(name for name in state if "q_proj" in name)
    save_file(state | {name: state[name].to(dtype)}, copy / "model.safetensors", metadata={"format": "pt"})
    assert f"{str(dtype)[6:]} where the model has floating-point numbers (quantised?)" in refused(copy)


def test_a_shape_that_does_not_fit_names_the_file(written: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(written / "native", tmp_path / "copy")
    state = load_file(copy / "model.safetensors")
    name = next(name for name in state if "q_proj" in name)
    save_file(state | {name: state[name][:1].clone()}, copy / "model.safetensors", metadata={"format": "pt"})
    assert f"{copy}: {name}: shape (1, " in refused(copy)


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        *(("native", key) for key in ("alignments", "connectors", "streams", "towers", "text_config")),
        *(("official", key) for key in ("vocab_size", "hidden_size", "num_attention_heads")),
    ],
)
@pytest.mark.parametrize("value", [[1], "x", NAN, -1], ids=str)
def test_wrong_types_in_a_config_are_one_line(kind: str, key: str, value: Any, written: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(written / kind, tmp_path / "copy")
    edit(copy / "config.json", **{key: value})
    assert re.match(rf"{copy}(/config\.json)?: ", refused(copy).removeprefix("error: "))


@pytest.mark.parametrize("value", [[1], "x", NAN, -1], ids=str)
def test_a_dtype_that_is_none_is_one_line(value: Any, written: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(written / "native", tmp_path / "copy")
    edit(copy / "config.json", dtype=value)
    assert "config.json" in refused(copy)


@pytest.mark.parametrize("name", ["processor_config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["[]", "{", "null"])
def test_broken_files_of_a_processor_are_one_line(name: str, text: str, written: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(written / "native", tmp_path / "copy")
    (copy / name).write_text(text)
    said = refused(copy)
    assert "no processor can be read from processor_config.json and the tokenizer's files" in said or name in said


def test_a_config_of_another_system_than_its_processor_is_refused(written: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(written / "native", tmp_path / "copy")
    edit(copy / "config.json", system="longvale")
    assert "config.json is of system 'longvale', processor_config.json of 'video_llava'" in refused(copy)


@pytest.mark.parametrize("weight_map", [[1], "x", None, {"a": 3}, {"a": "b\0c"}], ids=str)
def test_a_wrong_index_of_shards_is_refused(weight_map: Any, written: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(written / "native", tmp_path / "copy")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "weight_map: expected the name of a file for each tensor" in refused(copy)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer"),
        (pickle.dumps({"a": Path("b")}), "code in it is not run"),
        (pickle.dumps({3: 4}), ""),
    ],
    ids=["pointer", "code", "keys"],
)
def test_what_is_wrong_with_a_pickle_is_said(content: bytes, message: str, written: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(written / "official", tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(content)
    said = refused(copy)
    assert "pytorch_model.bin: not a readable file of tensors" in said and message in said
    assert "weights_only" not in said
