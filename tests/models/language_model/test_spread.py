"""A language model whose layers are divided over devices: what goes where, and that answers are those of one device."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from layer_programs import PROGRAMS, LevelsConfig, model_with
from pretended_devices import pretend, pretended_devices
from tiny_language_models import language_model
from torch import nn

from vidtune.generation.decoding import SinglePrompt
from vidtune.generation.prompt_tokens import PromptTokens
from vidtune.generation.shared_prefix import Branches, Prefix
from vidtune.models.language_model import call_plan, guided_drop
from vidtune.models.language_model.call_plan import MediaTokens
from vidtune.models.language_model.layer_program import LayerProgram
from vidtune.models.language_model.spread import spread_layers
from vidtune.registry import CONNECTORS

HOME, OTHER = torch.device("cpu"), torch.device("cpu:1")


@pytest.fixture
def levels():
    CONNECTORS.register("levels", LevelsConfig)
    yield
    CONNECTORS.unregister("levels")


def spread(decoder: Any, near: int) -> None:
    """The first layers at home, the others elsewhere, on devices that are pretended."""
    layers = list(decoder.layers)
    del decoder.layers[:]
    places = {layer: str(HOME if number < near else OTHER) for number, layer in enumerate(layers)}
    for layer, device in places.items():
        pretend(layer, device)
    decoder.layers.extend(layers)
    spread_layers(places, HOME)


def tokens(length: int, width: int, begin: int = 0, program: LayerProgram | None = None) -> PromptTokens:
    """A prompt; under a program, of a video of four tokens with levels, and words around it."""
    plain = PromptTokens.of([torch.empty(length, width)], begin=begin)
    if not program:
        return plain
    added = len(program.adds.get("video", ()))
    video = MediaTokens("video", np.arange(2, 6), torch.empty(added, 4, width) if added else None)
    return PromptTokens(plain.embeds, plain.lengths, plain.position_ids, plain.next_positions, [video], program)


def test_no_operation_meets_tensors_of_two_devices(monkeypatch):
    model = language_model("qwen2_grouped")
    with pretended_devices(monkeypatch):
        with pytest.raises(RuntimeError, match="two devices"):
            torch.empty(2, device=HOME) + torch.empty(2, device=OTHER)
        pretend(model, str(HOME))
        spread(model.get_decoder(), near=1)
        one, two = (Prefix(model, tokens(length, 32)) for length in (7, 9))
        assert [keys.device for keys, _ in one.layers] == [HOME, OTHER]
        longer = one.extended(tokens(3, 32, begin=7))
        assert [keys.device for keys, _ in longer.layers] == [HOME, OTHER]
        batch = Branches([one, two, longer], PromptTokens.of([torch.empty(n, 32) for n in (3, 2, 4)], begin=7))
        joining = Branches(two, tokens(2, 32, begin=9))
        assert batch.start().device == joining.start().device == HOME
        batch.join(joining)
        batch.step([1, 2, 3, 4])
        batch.keep([0, 3])
        assert batch.step([1, 2]).shape == (2, 300)
        assert [keys.device for keys, _ in batch.layers.values()] == [HOME, OTHER]
        alone = SinglePrompt(model, tokens(5, 32))
        assert alone.start().device == alone.step([1]).device == HOME


@pytest.mark.parametrize(
    "name", ["guided", *(pytest.param(n, marks=pytest.mark.whole) for n in PROGRAMS if n != "guided")]
)
def test_a_layer_program_follows_the_layers(name, levels, monkeypatch):
    model = model_with(PROGRAMS[name])
    program = model.program.of_streams(["video"])
    language_model = model.language_model
    for module in (call_plan, guided_drop):  # by numpy, which knows no pretended values
        monkeypatch.setattr(module, "chosen_indices", lambda rule, tokens, count: np.arange(count))
    with pretended_devices(monkeypatch):
        pretend(language_model, str(HOME))
        spread(language_model.get_decoder(), near=3)
        assert SinglePrompt(language_model, tokens(9, 32, program=program)).start().device == HOME
        prefix = Prefix(language_model, tokens(9, 32, program=program))
        batch = Branches(prefix, PromptTokens.of([torch.empty(3, 32), torch.empty(2, 32)], begin=9))
        batch.questions = PromptTokens(**{**vars(batch.questions), "program": program})
        assert batch.start().device == batch.step([1, 2]).device == HOME


class Layer(nn.Module):
    """Notes what it gets."""

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, turns: tuple[torch.Tensor, ...]) -> torch.Tensor:
        self.got = mask, *turns
        return hidden


def test_what_all_layers_get_goes_to_each_device_once_in_a_call():
    model = nn.ModuleList(Layer() for _ in range(4))
    spread_layers(dict(zip(model, ("cpu", "cpu", "meta", "meta"), strict=True)), torch.device("meta"))
    for layers in (model, deepcopy(model)):
        for _ in range(2):
            hidden, mask, turns = torch.ones(2), torch.ones(2), (torch.ones(3), torch.ones(4))
            for layer in layers:
                hidden = layer(hidden, mask=mask, turns=turns)
            near, far = layers[1].got, layers[3].got
            assert all(one is other for one, other in zip(near, (mask, *turns), strict=True))
            assert [one.device.type for one in far] == ["meta"] * 3
            assert all(one is other for one, other in zip(layers[2].got, far, strict=True))
            assert [tuple(one.shape) for one in far] == [(2,), (3,), (4,)]
