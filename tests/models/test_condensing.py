"""Long items are encoded and condensed in parts: the same features, bounded memory, the same gradients."""

import pytest
import torch
from torch.testing import assert_close

from vidtune.models.condensing import condensed
from vidtune.models.connectors.token_merging import TokenMergingConfig
from vidtune.models.towers import clipwise
from vidtune.models.towers.base import tower_config

SIZES = {"type": "umt", "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"image_size": 16, "patch_size": 8}
MERGING = TokenMergingConfig(input_size=32, output_size=8, group_tokens=16, tokens=4, heads=2)


@pytest.fixture
def tower():
    torch.manual_seed(0)
    return tower_config(SIZES).build().eval()


@pytest.fixture
def items():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, frames, 16, 16, generator=generator) for frames in (20, 4, 8, 4, 4)]


def run_all(tower, items, calls=None):
    def run(values):
        if calls is not None:
            calls.append([tower.config.num_tokens(tuple(value.shape)) for value in values])
        return tower(list(values))

    return condensed(tower, run, MERGING, items, [{} for _ in items])


@torch.no_grad()
def test_parts_are_bounded_and_give_the_same_features(tower, items, monkeypatch):
    whole, calls = run_all(tower, items), []
    monkeypatch.setattr(clipwise, "TOKENS_AT_ONCE", 32)
    for block, expected in zip(run_all(tower, items, calls), whole, strict=True):
        assert_close(block, expected, atol=1e-5, rtol=0)
    assert [len(block) for block in whole] == [20, 4, 8, 4, 4]
    assert calls == [[32], [32], [16, 16], [32], [16, 16]]


@torch.no_grad()
def test_groups_of_several_clips_stay_together(tower, monkeypatch):
    monkeypatch.setattr(clipwise, "TOKENS_AT_ONCE", 40)
    video = torch.randn(3, 24, 16, 16)
    assert [len(part) for part in tower.parts_of(video, 32)] == [2, 2, 2]
    assert [len(part) for part in tower.parts_of(video, 48)] == [3, 3]
    assert [len(part) for part in tower.parts_of(video, 8)] == [2, 2, 2]
    assert [tuple(part.shape) for part in tower.parts_of(video, 24)] == [(3, 24, 16, 16)]


def test_gradients_of_parts_are_those_of_the_whole(tower, items, monkeypatch):
    def gradients():
        tower.zero_grad()
        sum(block.square().sum() for block in run_all(tower, items)).backward()
        return {name: weight.grad.clone() for name, weight in tower.named_parameters()}

    whole = gradients()
    monkeypatch.setattr(clipwise, "TOKENS_AT_ONCE", 32)
    for name, gradient in gradients().items():
        assert_close(gradient, whole[name], atol=1e-4, rtol=1e-4)


def test_training_computes_each_part_again_and_keeps_no_graph_of_it(tower, items, monkeypatch):
    monkeypatch.setattr(clipwise, "TOKENS_AT_ONCE", 32)
    calls: list[list[int]] = []
    loss = sum(block.square().sum() for block in run_all(tower, items, calls))
    assert len(calls) == 5
    loss.backward()
    assert sorted(calls[5:]) == sorted(calls[:5])


def test_pictures_of_tiles_are_condensed_as_a_whole(tower):
    tiled = TokenMergingConfig(input_size=32, output_size=8, group_tokens=4, tokens=4, heads=2, tiled=True)
    assert tiled.part_tokens is None and MERGING.part_tokens == 16
    picture, calls = torch.randn(5, 3, 1, 16, 16), []

    def run(values):
        calls.append(len(values))
        return tower(list(values))

    extras = [{"tiles": torch.tensor([2, 2])}]
    block = condensed(tower, run, tiled, [picture], extras)[0]
    assert_close(block, tiled.condense([tower([picture])[0]], extras)[0])
    assert calls == [1]
