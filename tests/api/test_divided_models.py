"""A language model is divided over devices by the bytes of its layers, and answers as it does on one."""

import random
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import pytest
import torch

import vidtune
from vidtune.checkpoints.placement import division
from vidtune.checkpoints.placement.division import divide
from vidtune.checkpoints.placement.memory import needed_memory
from vidtune.checkpoints.placement.place import Placement
from vidtune.machine import devices
from vidtune.models.language_model import spread

GIVEN: dict[str, Any] = {"video": "clip.mp4", "max_new_tokens": 6}


@pytest.mark.parametrize(
    ("layers", "beside", "free", "expected"),
    [
        ([4, 4, 4, 4], 0, [16, 16], [0, 0, 1, 1]),
        ([4, 4, 4, 4], 8, [16, 16], [0, 1, 1, 1]),  # the embeddings are on the first
        ([4, 4, 4, 4], 0, [48, 16], [0, 0, 0, 1]),
        ([1, 1, 8, 1], 0, [10, 10], [0, 0, 1, 1]),
        ([4, 4], 20, [16, 16], [1, 1]),
        ([4, 4], 0, [0, 100], [1, 1]),
        ([4, 4], 0, [100], [0, 0]),
    ],
)
def test_the_fullest_device_is_as_empty_as_it_can_be(layers, beside, free, expected):
    assert divide(layers, beside, free) == expected


def test_no_other_division_is_better():
    draw = random.Random(0)
    for _ in range(60):
        layers = [draw.randint(1, 9) for _ in range(draw.randint(1, 6))]
        free = [draw.randint(1, 40) for _ in range(draw.randint(1, 3))]
        beside = draw.randint(0, 10)

        def fullest(places, layers=layers, free=free, beside=beside):
            used = [beside if number == 0 else 0 for number in range(len(free))]
            for place, size in zip(places, layers, strict=True):
                used[place] += size
            return max(one / room for one, room in zip(used, free, strict=True))

        found = divide(layers, beside, free)
        assert found == sorted(found)
        assert fullest(found) == min(map(fullest, combinations_with_replacement(range(len(free)), len(layers))))


def test_a_divided_model_answers_as_an_undivided_one(in_examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = vidtune.load("tiny-model", device="cpu")
    moved: list[str] = []
    bring = spread._Carrier.bring
    monkeypatch.setattr(
        spread._Carrier, "bring", lambda self, device, *call: moved.append(str(device)) or bring(self, device, *call)
    )
    model = vidtune.load("tiny-model", device="cpu", place={"language_model": "cpu, cpu:1"})
    questions = ["What moves?", "Where to?"]
    assert list(map(str, model.answer(questions, **GIVEN))) == list(map(str, whole.answer(questions, **GIVEN)))
    layers = model.network.config.text_config.num_hidden_layers
    assert "cpu:1" in moved  # which torch computes on the CPU, as that has no numbers
    assert len(moved) % layers == 0  # before every layer of every forward pass
    assert model.network.state_dict().keys() == whole.network.state_dict().keys()


def test_memory_is_counted_on_each_device(in_examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = vidtune.load("tiny-model", device="cpu").network
    monkeypatch.setattr(division, "free_memory", lambda device: 1000)
    placement = Placement("cuda:0", parts={"towers": "cpu", "language_model": "cuda:0,cuda:1"})
    found = needed_memory(network, torch.float32, placement)
    held = sum(tensor.nbytes for tensor in [*network.parameters(), *network.buffers()])
    assert sum(parts.total() for parts in found.values()) == held
    layers = network.family.decoder_layers(network.language_model)
    of_a_layer = sum(weight.nbytes for weight in layers[0].parameters())
    assert found["cuda:1"]["language_model"] % of_a_layer == 0 < found["cuda:1"]["language_model"]
    assert found["cuda:1"].keys() == {"language_model"} and found["cpu"].keys() == {"towers"}


def test_all_gpus_are_taken_by_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "pick_device", lambda name: name or "cpu")
    assert devices.pick_devices("auto") == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert devices.pick_devices("auto") == "cuda:0,cuda:1,cuda:2"


def test_towers_have_one_device(in_examples: Path) -> None:
    with pytest.raises(vidtune.UserError, match="place= towers=cpu,cpu: give one device"):
        vidtune.load("tiny-model", device="cpu", place={"towers": "cpu,cpu"})


@pytest.mark.parametrize("names", ["cuda:0,cuda:0", "cuda,cuda:0", "cpu,cuda:1,cpu"])
def test_a_device_is_named_once(names: str) -> None:
    with pytest.raises(vidtune.UserError, match=f"--place language_model={names}: names a device twice"):
        Placement("cpu", parts={"language_model": names})


def test_two_names_of_a_device_are_one_memory(in_examples: Path) -> None:
    network = vidtune.load("tiny-model", device="cpu").network
    found = needed_memory(network, torch.float32, Placement("cuda", parts={"towers": "cuda:0"}))
    assert [*found] == ["cuda:0"] and {"towers", "language_model"} <= found["cuda:0"].keys()
