"""Put a loaded model on its devices, with the language model in fewer bits where that is asked for."""

from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from vidtune.checkpoints.placement.division import divided_layers
from vidtune.checkpoints.placement.memory import weight_bytes
from vidtune.checkpoints.placement.place import Placement
from vidtune.machine.devices import numbered
from vidtune.models.language_model.quantization import is_quantized, quantize_linear_layers
from vidtune.models.language_model.spread import spread_layers
from vidtune.models.video_lm import VideoLM


def place_model(model: VideoLM, placement: Placement) -> None:
    """Move the parts of a model to their devices, in place, and set it to evaluation mode.

    A layer that is held in fewer bits goes there alone, so that a device never holds more than one layer as it was.
    """
    model.eval()
    home = torch.device(placement.of("language_model"))
    divided = divided_layers(model, placement, weight_bytes(model, placement))
    if placement.quantize is not None:
        owners = {part: device for layer, device in divided.items() for part in layer.modules()}
        quantize_linear_layers(
            model.language_model,
            placement.quantize,
            lambda layer: torch.device(owners.get(layer, home)),
            in_own_dtype=True,
        )
    layers = model.family.decoder_layers(model.language_model) if divided else nn.ModuleList()
    del layers[:]  # they stand apart until the rest is at home, where there may be no room for all of them
    for layer, device in divided.items():
        layer.to(device)
    for name, part in model.named_children():
        part.to(placement.of(name))
    layers.extend(divided)
    if divided:
        spread_layers(divided, home)
    if placement.quantize is not None:
        settle(model.language_model)


def stands_there(model: VideoLM, placement: Placement) -> bool:
    """Whether the parts of a model are on the devices of a placement already."""
    for name, part in model.named_children():
        devices = placement.devices if name == "language_model" else (placement.of(name),)
        if {numbered(str(weight.device)) for weight in part.parameters()} - set(map(numbered, devices)):
            return False
    return True


@torch.inference_mode()
def settle(language_model: PreTrainedModel) -> None:
    """Run every layer in few bits once: the first run changes how it holds its weight, which no two threads may do."""
    dtype = next(language_model.get_input_embeddings().parameters()).dtype
    for layer in language_model.modules():
        if is_quantized(layer):
            linear = cast(nn.Linear, layer)
            layer(torch.zeros(1, linear.in_features, dtype=dtype, device=linear.weight.device))
