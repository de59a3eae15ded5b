"""A weight that is NaN or Inf is never loaded: refused in one line with the file and the tensor, whatever holds it."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_strange_files import edit, refused, written  # noqa: F401
from tiny_models import tiny_model

from vidtune.checkpoints.files.tensors import is_finite
from vidtune.checkpoints.load import load_checkpoint
from vidtune.cli.main import run
from vidtune.errors import UserError
from vidtune.models.language_model.families import Family, proven

NAN, INF = float("nan"), float("inf")


def with_value(file: Path, part: str, value: float, place: int = -1) -> str:
    """Put one value into the first tensor whose name contains ``part``. Returns the name."""
    state = load_file(file)
    name = next(name for name in state if part in name)
    state[name].view(-1)[place] = value
    save_file(state, file, metadata={"format": "pt"})
    return name


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize(
    ("kind", "file", "part"),
    [
        ("native", "model.safetensors", "q_proj"),
        ("native", "model.safetensors", "towers.image"),
        ("official", "model.safetensors", "mm_projector"),
        ("official", "model.safetensors", "norm"),
        ("bundle", "adapter_model.safetensors", "lora_B"),
    ],
)
def test_file_and_tensor_are_named(
    kind: str,
    file: str,
    part: str,
    value: float,
    written: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    copy = shutil.copytree(written / kind, tmp_path / kind)
    name = with_value(copy / file, part, value)
    message = refused(copy)
    assert f"{copy / file}: {name}: 1 of " in message and "values are NaN or Inf" in message


def test_the_shard_is_named(written: Path, tmp_path: Path) -> None:  # noqa: F811
    copy = shutil.copytree(written / "native", tmp_path / "native")
    state = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    half = {name for name in list(state)[::2]}
    for shard, names in (("a.safetensors", half), ("b.safetensors", set(state) - half)):
        save_file({name: state[name] for name in names}, copy / shard, metadata={"format": "pt"})
    weight_map = {name: "a.safetensors" if name in half else "b.safetensors" for name in state}
    (copy / "model.safetensors.index.json").write_text("{}")
    edit(copy / "model.safetensors.index.json", weight_map=weight_map)
    name = with_value(copy / "b.safetensors", "weight", NAN, 0)
    assert f"{copy / 'b.safetensors'}: {name}: 1 of" in refused(copy)


def test_what_only_the_dtype_cannot_hold_is_said(written: Path, tmp_path: Path) -> None:  # noqa: F811
    copy = shutil.copytree(written / "native", tmp_path / "native")
    name = with_value(copy / "model.safetensors", "down_proj", 7e4)
    said = refused(copy, dtype=torch.float16)
    assert f"{copy}: {name}: holds values beyond the range of float16 (65504); load it with dtype bfloat16" in said
    assert load_checkpoint(copy, dtype=torch.bfloat16)


def test_a_sum_that_overflows_is_said(written: Path, tmp_path: Path) -> None:  # noqa: F811
    copy = shutil.copytree(written / "bundle", tmp_path / "bundle")
    with_value(copy / "adapter_model.safetensors", "lora_B", 3e38)
    edit(copy / "adapter_config.json", lora_alpha=1e30)
    assert "is NaN or Inf after adding what stands on it; check the scale" in refused(copy)


def test_commands_refuse_it_with_exit_code_2(
    written: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = shutil.copytree(written / "native", tmp_path / "native")
    name = with_value(copy / "model.safetensors", "embed_tokens", NAN)
    for words in (["answer", str(copy), "--question", "Who?"], ["convert", str(copy), str(tmp_path / "to")]):
        assert run([*words, "--device", "cpu"] if words[0] == "answer" else words) == 2
        captured = capsys.readouterr()
        assert f"{copy / 'model.safetensors'}: {name}: 1 of" in captured.err and not captured.out


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_place_of_a_tensor_is_looked_at(dtype: torch.dtype) -> None:
    for size in (1, 7, 33, 70):
        tensor = torch.randn(size).to(dtype)
        assert is_finite(tensor)
        for place in range(size):
            for value in (NAN, INF, -INF):
                changed = tensor.clone()
                changed[place] = value
                assert not is_finite(changed), (size, place, value)
    assert is_finite(torch.zeros(0)) and is_finite(torch.tensor([1])) and is_finite(torch.tensor(2.0))


def test_a_proof_says_that_the_numbers_are_none_and_does_not_remember_it() -> None:
    model, family = tiny_model().language_model, Family()
    weight = model.get_decoder().layers[1].mlp.down_proj.weight.data
    kept = weight[0, 0].item()
    weight[0, 0] = NAN
    with pytest.raises(UserError, match=r"language model 'llama': its logits are NaN or Inf"):
        proven(family, model)
    weight[0, 0] = kept
    assert proven(family, model).exact
