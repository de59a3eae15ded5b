"""Modules that are built for their names and shapes alone: the same as others, and nothing is worked out for them."""

import torch
from tiny_models import tiny_model

from vidtune.models.initial import without_values
from vidtune.models.video_lm import VideoLM


def test_names_and_shapes_are_those_of_a_model_with_values_and_nothing_is_drawn_or_filled() -> None:
    whole = tiny_model()
    before = torch.random.get_rng_state()
    with without_values(), torch.profiler.profile() as profile:
        empty = VideoLM(whole.config)
    assert torch.equal(torch.random.get_rng_state(), before)

    def shapes(model: VideoLM) -> dict[str, object]:
        values = [*model.named_parameters(), *model.named_buffers()]
        return {name: (value.shape, value.dtype, value.requires_grad) for name, value in values}

    assert shapes(empty) == shapes(whole)
    assert {value.device.type for value in empty.state_dict().values()} == {"meta"}
    done = {event.key for event in profile.key_averages()}
    assert "aten::empty" in done and not done & {"aten::uniform_", "aten::normal_", "aten::zero_", "aten::fill_"}


def test_a_tensor_with_values_is_filled_there_too() -> None:
    with without_values():
        filled = torch.empty(3, device="cpu")
        torch.nn.init.constant_(filled, 2.0)
    assert filled.tolist() == [2.0, 2.0, 2.0]
