"""The alignment block: any mixture of shapes at once equals one by one, and its token counts are known beforehand."""

import copy
from itertools import permutations

import pytest
import torch
from tiny_stab import SHAPES, STAB, clips, tiny_stab_model, tiny_tower

from vidtune.media.preprocessing.resize_keeping_aspect import AnyPixelImagePreprocessing, AnyPixelVideoPreprocessing
from vidtune.models.batch_norm_statistics import ClipBatchNorm, deferred_statistics
from vidtune.models.letterbox import letterbox
from vidtune.models.towers.stab import StabTowerConfig
from vidtune.models.towers.stab_blocks import attend
from vidtune.recipe.types import Train
from vidtune.training.setup.parameters import prepare_components


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_clips_of_all_shapes_together_equal_each_alone(mode):
    tower = tiny_tower().train(mode == "train")
    alone = copy.deepcopy(tower)
    together = tower(clips())
    for block, clip in zip(together, clips(), strict=True):
        torch.testing.assert_close(block, alone(clip[None])[0], atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(tower.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
    updates = tower.local_encoding.norm.num_batches_tracked
    assert updates == (len(SHAPES) if mode == "train" else 0)


def test_gradients_of_clips_together_are_the_sum_of_each_alone():
    tower, alone = tiny_tower().train(), tiny_tower().train()
    torch.cat(tower(clips())).square().sum().backward()
    for clip in clips():
        alone([clip])[0].square().sum().backward()
    for (name, ours), theirs in zip(tower.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-3, rtol=1e-3, msg=name)


def test_a_picture_on_its_square_equals_the_picture():
    tower = tiny_tower()
    config = tower.config
    for clip in clips():
        square = letterbox(clip, config.image_size, config.cell_pixels, 8, torch.tensor(config.padding_color))
        mask = letterbox(torch.ones_like(clip), config.image_size, config.cell_pixels, 8, torch.zeros(3))
        with_mask = torch.cat([square, mask[:1]])
        torch.testing.assert_close(tower([with_mask])[0], tower([clip])[0])


def test_every_shape_that_preprocessing_gives_becomes_as_many_tokens_as_promised():
    tower = tiny_tower()
    config = tower.config
    for preprocessing in (
        AnyPixelImagePreprocessing(size=config.image_size, cell=config.cell_pixels),
        AnyPixelVideoPreprocessing(size=config.image_size, cell=config.cell_pixels),
    ):
        shapes = preprocessing.output_shapes()
        assert len(set(shapes)) == len(shapes) == (11 if len(shapes[0]) == 3 else 11 * 8)
        with torch.no_grad():
            blocks = tower([torch.zeros(shape) for shape in shapes])
        assert [len(block) for block in blocks] == [config.num_tokens(shape) for shape in shapes]


@pytest.mark.parametrize(
    ("shape", "tokens"),
    [
        ((3, 8, 448, 448), 2184),
        ((3, 8, 252, 448), 1232),
        ((3, 8, 448, 252), 1288),
        ((3, 8, 336, 448), 1640),
        ((3, 5, 252, 448), 5 * 154 + 3 * 73),
        ((3, 448, 448), 273),
    ],
)
def test_published_token_counts(shape, tokens):
    assert StabTowerConfig().num_tokens(shape) == tokens


def test_grids_point_at_the_tokens_of_the_cells():
    tower = tiny_tower()
    shape = (3, 5, 12, 24)
    grids = tower.config.token_grids(shape)
    assert len(grids) == 5
    marked = torch.zeros(shape)
    with torch.no_grad():
        before = tower([marked])[0]
        marked[:, 4, 4:8, 20:24] += 1.0  # cell in row 1, column 5 of the last frame
        after = tower([marked])[0]
    changed = (after - before).norm(dim=1)[grids[4].tokens()].view(3, 6)
    assert changed.argmax() == 1 * 6 + 5
    assert grids[4].cells()[0] == 1 * 6 and grids[4].side == 6


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([torch.zeros(3, 8, 24, 24), torch.zeros(3, 24, 24)], "cannot run together"),
        ([torch.zeros(3, 9, 24, 24)], "1 to 8 frames"),
        ([torch.zeros(3, 8, 23, 24)], "does not fit"),
        ([torch.zeros(3, 8, 28, 24)], "does not fit"),
    ],
)
def test_what_the_block_cannot_take_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        tiny_tower()(values)


def test_attention_without_keys_and_values_equals_attention_with_them():
    torch.manual_seed(0)
    query, tokens = torch.randn(3, 8), torch.randn(3, 5, 8)
    key_weight, value_weight = torch.randn(8, 8), torch.randn(8, 8)
    keys, values = ((tokens @ weight.T).view(3, 5, 2, 4).transpose(1, 2) for weight in (key_weight, value_weight))
    wanted = torch.nn.functional.scaled_dot_product_attention(query.view(3, 2, 1, 4), keys, values, scale=0.3)
    torch.testing.assert_close(attend(query, key_weight, value_weight, tokens, 2, 0.3), wanted.flatten(1))


def test_a_picture_in_training_reaches_every_weight():
    tower = tiny_tower().train()
    tower([torch.randn(3, 24, 12)])[0].sum().backward()
    assert all(parameter.grad is not None for parameter in tower.parameters())
    assert tower.local_encoding.norm.num_batches_tracked == 0


def test_touching_an_idle_tower_leaves_its_statistics_alone():
    model = tiny_stab_model().train()
    before = {name: buffer.clone() for name, buffer in model.towers.named_buffers()}
    model.untouched_streams({}).backward()
    assert model.towers["video"].training
    assert all(parameter.grad is not None for parameter in model.towers.parameters())
    for name, buffer in model.towers.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_frozen_statistics_normalise_in_training_as_afterwards_and_stay():
    model, values = tiny_stab_model(), clips()
    norm = model.towers["video"].local_encoding.norm
    torch.nn.init.normal_(model.towers["video"].local_encoding.expand.weight)
    norm.running_mean.normal_()
    before, wanted = copy.deepcopy(norm.state_dict()), model.towers["video"](values)
    prepare_components(model, {"towers.video": Train(learning_rate=1.0, frozen_statistics=True)}, torch.float32)
    assert not deferred_statistics(model)
    model.untouched_streams({}).backward()  # puts the tower into eval mode and back
    assert model.towers["video"].training and norm.weight.requires_grad
    for ours, theirs in zip(model.towers["video"](values), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name]), name
    prepare_components(model, {"towers.video": Train(learning_rate=1.0)}, torch.float32)
    assert deferred_statistics(model) == [norm], "the next stage does not freeze them"


def test_a_fresh_block_starts_without_exchange_over_time():
    tower = StabTowerConfig(**STAB).build()
    assert not tower.local_encoding.expand.weight.any()
    assert not tower.fusion.balance.any() and not tower.clip_aggregator.query.any()
    assert float(tower.clip_aggregator.mlp_in.weight.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_deferred_statistics_are_the_average_over_all_orders_of_the_clips():
    torch.manual_seed(0)
    clips = [torch.randn(2, 4, 4, 3, 3) * scale + scale for scale in (0.5, 1.0, 2.0)]
    means, variances = [], []
    for order in permutations(clips):
        norm = ClipBatchNorm(4).train()
        for clip in order:
            norm(clip)
        means.append(norm.running_mean)
        variances.append(norm.running_var)
    parts = [ClipBatchNorm(4).train() for _ in range(2)]
    (deferred, other) = (deferred_statistics(part)[0] for part in parts)
    normalized = deferred(torch.cat(clips[:2]), num_clips=2)
    torch.testing.assert_close(normalized, ClipBatchNorm(4).train()(torch.cat(clips[:2]), num_clips=2))
    other(clips[2])
    assert not deferred.running_mean.any()
    seen = deferred.take_statistics() + other.take_statistics()
    for norm in (deferred, other):
        norm.update_statistics(seen)
        torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0))
        torch.testing.assert_close(norm.running_var, torch.stack(variances).mean(0))
        assert norm.num_batches_tracked == 3
        norm.update_statistics(norm.take_statistics())
        assert norm.num_batches_tracked == 3, "a step without clips changes nothing"
