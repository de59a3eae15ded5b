"""Other sizes for parts of a model that keep their weights."""

import copy

import pytest
import torch
from tiny_stages import composed

from vidtune.checkpoints.fit_processor import preprocessing_of
from vidtune.errors import UserError
from vidtune.models.resizing import resize, resized_tower, with_sizes
from vidtune.models.video_lm import VideoLM


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return VideoLM(composed())


def test_a_model_gets_other_sizes_and_keeps_its_weights(model):
    config = with_sizes(model.config, {"towers.image": {"feature_layer": -1}}, "here")
    assert model.config.towers["image"].get("feature_layer") != -1  # the model's own config is another
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    frames = torch.randn(1, 3, 28, 28)
    before, wanted = (
        model.encode("image", frames),
        resized_tower(model.towers["image"], config, "image", "here")(frames),
    )
    resize(model, config, "here")
    assert model.config.towers == config.towers
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(model.tower_features("image", frames), wanted)
    assert not torch.equal(model.encode("image", frames), before)


def test_a_stage_reads_another_number_of_frames_as_an_answer_does(model):
    longer = copy.deepcopy(model)
    resize(longer, with_sizes(model.config, {"towers.video": {"num_frames": 6}}, "here"), "here")
    clips = torch.randn(1, 3, 6, 28, 28)
    assert torch.equal(longer.towers["video"](clips), model.tower_with("video", (("num_frames", 6),))(clips))
    assert preprocessing_of(longer.config)["video"].num_frames == 6
    assert longer.config.num_tokens("video", (3, 6, 28, 28)) == 6 * model.config.tower("video").tokens_per_frame


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"towers.picture": {"image_size": 56}}, "stage 'a': sizes: no tower or connector 'towers.picture'"),
        ({"towers.image": {"image_siez": 56}}, "stage 'a': sizes: .*image_siez"),
        ({"towers.image": {"patch_size": 7}}, r"stage 'a': sizes: towers.image: weight .* would be \(.*\) and not \("),
    ],
)
def test_sizes_that_cannot_change_are_refused(model, sizes, message):
    where = "stage 'a': sizes"
    with pytest.raises(UserError, match=message):
        resize(model, with_sizes(model.config, sizes, where), where)
