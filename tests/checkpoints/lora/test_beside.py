"""Several adapters on one base in memory: its weights are held once, and answers are those of merged adapters."""

from pathlib import Path

import pytest
import torch
from peft import get_peft_model_state_dict
from synthetic_clips import write_clip
from tiny_checkpoint import write_checkpoint

import vidtune
from vidtune.checkpoints.load import load_checkpoint
from vidtune.checkpoints.lora.adapter_files import adapter_config, adapter_from_state
from vidtune.checkpoints.lora.bundle import LANGUAGE_MODEL, Base, weight_sample, write_bundle
from vidtune.checkpoints.lora.injection import add_adapters
from vidtune.checkpoints.placement.place import Placement
from vidtune.recipe.types import LoRA

QUESTIONS = ["What moves?", "Who is it?"]


def write_adapter(base: Path, folder: Path, seed: int, others: dict[str, torch.Tensor]) -> Path:
    """A bundle of an adapter of the language model and of the video tower on a checkpoint, and whole weights."""
    model = vidtune.load(base, device="cpu")
    sample, adapters = weight_sample(model.network), {}
    for component in (LANGUAGE_MODEL, "towers.video"):
        part = model.network.get_submodule(component)
        layers = add_adapters(part, LoRA(rank=2, alpha=4), seed, "test")
        factors = get_peft_model_state_dict(part, adapter_name="default")
        torch.manual_seed(seed)
        factors = {name: torch.randn_like(factor) * 0.3 for name, factor in factors.items()}
        adapters[component] = adapter_from_state(factors, adapter_config(LoRA(rank=2, alpha=4), layers, "", None), "")
    folder.mkdir()
    write_bundle(folder, Base(checkpoint=str(base)), sample, adapters, others)
    model.network.config.save_pretrained(folder)
    model.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("beside")
    base = write_checkpoint(root / "base")
    write_clip(root / "clip.mp4", num_frames=6)
    weights = dict(vidtune.load(base, device="cpu").network.named_parameters())
    name = next(name for name in weights if name.startswith("connectors."))
    write_adapter(base, root / "one", 1, {})
    write_adapter(base, root / "two", 2, {name: weights[name].detach() * -0.5})
    return root


def answers(model: vidtune.Model, root: Path) -> list[str]:
    return list(map(str, model.answer(QUESTIONS, video=root / "clip.mp4", max_new_tokens=8)))


def held(*models: vidtune.Model) -> int:
    """Bytes of all storages that the models hold."""
    tensors = (tensor for one in models for tensor in (*one.network.parameters(), *one.network.buffers()))
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def test_weights_of_a_base_are_held_once_and_answers_are_those_of_merged_adapters(world: Path) -> None:
    base = vidtune.load(world / "base", device="cpu")
    alone, plain = held(base), answers(base, world)
    one, two = (vidtune.load(world / name, device="cpu", beside=[base]) for name in ("one", "two"))
    factors = [weight for name, weight in two.network.named_parameters() if name.endswith((".down", ".up"))]
    adapters = 2 * sum(factor.nbytes for factor in factors)
    own = next(w.nbytes for n, w in base.network.named_parameters() if n.startswith("connectors."))
    assert held(base, one, two) == alone + adapters + own
    merged = [vidtune.load(world / name, device="cpu") for name in ("one", "two")]
    assert [answers(model, world) for model in (one, two)] == [answers(model, world) for model in merged]
    assert answers(base, world) == plain  # its weights were not touched
    assert len({tuple(answers(model, world)) for model in (base, one, two)}) == 3
    for model, whole in zip((one, two), merged, strict=True):
        layer = model.network.language_model.model.layers[0].self_attn.q_proj
        expected = whole.network.language_model.model.layers[0].self_attn.q_proj
        torch.testing.assert_close(layer.weight, expected.weight)


def test_what_is_not_the_base_or_of_another_dtype_is_not_shared(world: Path, tmp_path: Path) -> None:
    base = vidtune.load(world / "base", device="cpu")
    other = vidtune.load(write_checkpoint(tmp_path / "other"), device="cpu")
    for given, dtype in (([other], None), ([base], "bfloat16")):
        model = vidtune.load(world / "one", device="cpu", dtype=dtype, beside=given)
        assert held(model, *given) == held(model) + held(*given)


def test_a_base_that_stands_elsewhere_is_not_shared(world: Path) -> None:
    base = load_checkpoint(world / "base")
    one = load_checkpoint(world / "one", device="meta", others=[(base.model, base.source)])
    assert {weight.device.type for weight in one.model.parameters()} == {"meta"}
    parts = Placement("cpu", parts={"towers": "meta"})
    two = load_checkpoint(world / "one", placement=parts, others=[(base.model, base.source)])
    assert {weight.device.type for weight in two.model.towers.parameters()} == {"meta"}


def test_a_model_that_shares_weights_has_its_own_layer_program_and_is_not_written(world: Path, tmp_path: Path) -> None:
    program = [{"after": 1, "drop": ["video"], "keep": 0.5, "rule": "uniform"}]
    base = vidtune.load(world / "base", device="cpu", layer_program=program)
    one = vidtune.load(world / "one", device="cpu", beside=[base])
    assert not one.network.program and base.network.program
    with pytest.raises(vidtune.UserError, match="load it without beside"):
        one.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_base_in_fewer_bits_is_neither_shared_nor_written(world: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    base = vidtune.load(world / "base", device="cpu", quantize="8bit")
    one = vidtune.load(world / "one", device="cpu", beside=[base])
    assert held(one, base) == held(one) + held(base)
    with pytest.raises(vidtune.UserError, match="load it without quantize"):
        base.save(tmp_path / "saved")
