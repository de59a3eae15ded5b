"""Checkpoints that are wrong in themselves or told too much: each is refused with one line that names the file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import get_peft_model_state_dict
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


def test_a_bundle_without_adapters_is_refused(written: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(written / "bundle", tmp_path / "bundle")
    edit(copy / "bundle.json", adapters={})
    assert "adapters: names none" in refused(copy)


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
