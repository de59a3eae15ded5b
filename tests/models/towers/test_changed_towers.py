"""Towers that run by other settings: the weights are shared, attention over time is left out."""

import pytest
import torch
from tiny_models import tiny_model

from vidtune.errors import UserError
from vidtune.models.changed_towers import with_towers

OFF = {"video": {"temporal_attention": False}}


def test_attention_over_time_is_left_out_and_weights_are_shared():
    model = tiny_model()
    name = "video"
    clip = torch.randn(1, *model.config.tower(name).input_shape())
    before = model.towers[name](clip)
    view = with_towers(model, OFF)
    frames = clip[0].transpose(0, 1)
    plain = with_towers(model, {name: {"temporal_attention": False, "num_frames": None}}).towers[name]
    assert torch.equal(view.towers[name](clip)[0], plain(frames).flatten(0, 1))
    assert not torch.allclose(view.towers[name](clip), before)
    assert torch.equal(model.towers[name](clip), before) and model.config.towers[name]["temporal_attention"]
    assert view.towers[name].pre_layrnorm.weight.data_ptr() == model.towers[name].pre_layrnorm.weight.data_ptr()
    assert view.connectors is model.connectors and not view.config.towers[name]["temporal_attention"]
    assert with_towers(model, {}) is model


@pytest.mark.parametrize(
    ("towers", "message"),
    [
        ({"vidoe": {}}, "no tower 'vidoe'.*video"),
        ({"video": {"type": "umt"}}, "not which tower it is"),
        ({"video": {"temporal": False}}, "temporal"),
        ({"video": {"hidden_size": 8}}, "needs weights that the model does not have"),
    ],
)
def test_what_cannot_be_changed_is_named(towers, message):
    with pytest.raises(UserError, match=message):
        with_towers(tiny_model(), towers)
