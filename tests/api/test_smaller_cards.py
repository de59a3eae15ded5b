"""Models on small or several devices: fewer bits, parts elsewhere, and the memory that is said before loading."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import vidtune
from vidtune.checkpoints import load as loading
from vidtune.checkpoints.placement import memory
from vidtune.checkpoints.placement.place import Placement
from vidtune.cli.main import run
from vidtune.machine import devices
from vidtune.models.language_model.quantization import quantized_layers

bitsandbytes = pytest.importorskip("bitsandbytes")
QUESTION = "What moves?"


def in_four_bits(weight: torch.Tensor) -> torch.Tensor:
    """What the weight of a layer stands for after it was held in four bits."""
    small, state = bitsandbytes.functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    return bitsandbytes.functional.dequantize_4bit(small, state).to(weight.dtype)


def test_answers_of_four_bits_are_those_of_the_weights_they_stand_for(in_examples: Path) -> None:
    model, whole = vidtune.load("tiny-model", device="cpu", quantize="4bit"), vidtune.load("tiny-model", device="cpu")
    layers = {name for name, one in model.network.named_modules() if isinstance(one, bitsandbytes.nn.Linear4bit)}
    assert layers == {f"language_model.{name}" for name in quantized_layers(whole.network.language_model)}
    assert all(model.network.get_submodule(name).weight.dtype == torch.uint8 for name in layers)
    given: dict[str, Any] = {"video": "clip.mp4", "max_new_tokens": 6}
    before = whole.answer(QUESTION, **given)
    for name in layers:
        layer = whole.network.get_submodule(name)
        layer.weight.data = in_four_bits(layer.weight.data)
    assert whole.answer(QUESTION, **given) == model.answer(QUESTION, **given) != before


def test_an_evaluation_says_in_how_many_bits_it_was_computed(in_examples: Path) -> None:
    Path("tiny-model/recipe.yaml").unlink()
    words = ["evaluate", "tiny-model", "--benchmark", "world_qa", "--data", "world", "--out", "eval", "--workers", "0"]
    assert run([*words, "--device", "cpu", "--quantize", "8bit"]) == 0
    record = json.loads(Path("eval/world_qa/run.json").read_text())
    assert record["arithmetic"] == {"device": "cpu", "dtype": "float32 and int8"}


def test_towers_compute_on_their_own_device(in_examples: Path) -> None:
    network = copy.copy(vidtune.load("tiny-model", device="cpu").network)
    network.connectors.to("meta")
    network.language_model.to("meta")
    assert network.device == torch.device("meta")
    clips = torch.rand(1, *network.config.tower("video").input_shape())
    seen: list[torch.device] = []
    network.towers["video"].register_forward_hook(lambda tower, given, output: seen.append(output.device))
    assert network.encode("video", clips).device == torch.device("meta")
    assert seen == [torch.device("cpu")]


def test_memory_is_said_before_loading_and_what_does_not_fit_is_refused(
    in_examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "LARGE", 0)
    said: list[str] = []
    network = vidtune.load("tiny-model", device="cpu", said=said.append).network
    assert len(said) == 1 and said[0].startswith("weights: 0.0 GiB on cpu (")

    def needed(**where: Any) -> dict[str, int]:
        found = memory.needed_memory(network, torch.float32, Placement(**where))
        return {place: parts.total() for place, parts in found.items()}

    held = sum(tensor.nbytes for tensor in [*network.parameters(), *network.buffers()])
    assert needed() == {"cpu": held}
    assert sum(needed(device="cuda", parts={"towers": "cpu"}).values()) == held
    assert needed(quantize="4bit")["cpu"] < needed(quantize="8bit")["cpu"] < held

    monkeypatch.setattr(memory, "device_memory", lambda device: held - 1)
    monkeypatch.setattr(loading, "assemble", lambda *given: pytest.fail("weights were read"))
    with pytest.raises(vidtune.UserError, match=r"the weights need 0\.0 GiB on cpu, which has .*give quantize="):
        vidtune.load("tiny-model", device="cpu")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"quantize": "3bit"}, "quantize= 3bit: give 8bit or 4bit"),
        ({"place": {"tower": "cpu"}}, "place= tower: no such part of a model; .*towers"),
        ({"place": {"towers": "gpu"}}, "device 'gpu': "),
    ],
)
def test_impossible_placements_are_refused_in_one_line(given: dict[str, Any], reason: str, in_examples: Path) -> None:
    with pytest.raises(vidtune.UserError, match=reason) as refused:
        vidtune.load("tiny-model", device="cpu", **given)
    assert "\n" not in str(refused.value)
    with pytest.raises(vidtune.UserError, match="bitsandbytes does not compute on mps"):
        Placement("mps", "4bit")


def test_a_gpu_of_apple_is_chosen_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *sizes, device: made.append(device) or torch.ones(*sizes))
    assert devices.pick_device(None) == "mps" and made == ["mps"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.pick_device(None) == "cuda"
