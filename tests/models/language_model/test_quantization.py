"""Frozen layers in few bits: which ones, and that gradients are those of the weights they stand for."""

import copy

import pytest
import torch
from tiny_models import packed, random_example, tiny_model
from torch import nn

from vidtune.checkpoints.lora.adapter_files import is_adapter_weight
from vidtune.checkpoints.lora.injection import add_adapters
from vidtune.models.language_model.quantization import quantize_linear_layers
from vidtune.models.video_lm import VideoLM
from vidtune.recipe.types import LoRA

bitsandbytes = pytest.importorskip("bitsandbytes")
KINDS = {"4bit": bitsandbytes.nn.Linear4bit, "8bit": bitsandbytes.nn.Linear8bitLt}


def stands_for(layer: nn.Module) -> torch.Tensor:
    """The weight that a layer in few bits computes with."""
    if isinstance(layer, bitsandbytes.nn.Linear4bit):
        return bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    return layer.weight.CB.float() * layer.weight.SCB.unsqueeze(1) / 127


def gradients(model: VideoLM) -> dict[str, torch.Tensor]:
    add_adapters(model.language_model, LoRA(rank=4), 0, "here")
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        trains = is_adapter_weight(name) or name.startswith("connectors.")
        parameter.requires_grad_(trains)
        if trains:
            nn.init.normal_(parameter, std=0.1)
    model.train().loss_sum(packed([random_example(model, "video", 0)])).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_linear_layers_of_the_language_model_alone_are_held_in_few_bits(bits: str) -> None:
    model = tiny_model("qwen2", hidden_size=64, intermediate_size=128)
    whole, biases = copy.deepcopy(model), dict(model.language_model.named_buffers())
    quantize_linear_layers(model.language_model, bits)
    small = {name for name, module in model.named_modules() if isinstance(module, KINDS[bits])}
    linear = {name for name, module in whole.named_modules() if type(module) is nn.Linear}
    assert small == {name for name in linear if name.startswith("language_model.model.layers.")}
    state = model.state_dict()
    assert state.keys() == whole.state_dict().keys()
    for name, tensor in whole.state_dict().items():
        if name.removesuffix(".weight") not in small:
            assert torch.equal(tensor, state[name]), name
    assert biases.keys() == dict(model.language_model.named_buffers()).keys()
    layer, before = model.get_submodule(min(small)), whole.get_submodule(min(small))
    assert layer.weight.nbytes == before.weight.nbytes // {"4bit": 8, "8bit": 4}[bits]
    error = (stands_for(layer) - before.weight.data).norm() / before.weight.data.norm()
    assert 0 < float(error) < {"4bit": 0.15, "8bit": 0.01}[bits]


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_gradients_are_those_of_the_weights_in_few_bits(bits: str) -> None:
    model = tiny_model(hidden_size=64, intermediate_size=128)
    whole = copy.deepcopy(model)
    quantize_linear_layers(model.language_model, bits)
    for name, layer in whole.language_model.named_modules():
        if isinstance(model.language_model.get_submodule(name), KINDS[bits]):
            layer.weight.data = stands_for(model.language_model.get_submodule(name))
    expected = gradients(whole)
    for name, gradient in gradients(model).items():
        similarity = nn.functional.cosine_similarity(gradient.flatten(), expected[name].flatten(), dim=0)
        assert float(similarity) > 0.99, name
