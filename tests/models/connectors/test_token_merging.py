"""Merging of similar tokens: against a plain loop, in any company, in half precision, with a gradient."""

import math

import pytest
import torch
from torch import Tensor

from vidtune.errors import UserError
from vidtune.models.connectors import merging
from vidtune.models.connectors.base import connector_config
from vidtune.models.connectors.merging import destinations, merge, schedule
from vidtune.models.connectors.token_merging import by_rows
from vidtune.processing.stream_settings import Measure

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def looped(tokens: Tensor, target: int, heads: int) -> tuple[Tensor, Tensor]:
    """Merged tokens of one group and the destination of every token, step by step. (N, C) -> (target, C), (N,)"""
    places, sizes = torch.arange(len(tokens)), tokens.new_ones(len(tokens), 1)
    for number in schedule(len(tokens), target):
        compared = tokens.unflatten(1, (heads, -1)).mean(1)
        compared = compared / compared.norm(dim=-1, keepdim=True)
        similar, partners = (compared[::2] @ compared[1::2].T).max(-1)
        order = similar.argsort(dim=0, descending=True, stable=True)
        alone, merged, kept = order[number:], order[:number], len(order) - number
        into = torch.empty(len(tokens), dtype=torch.int64)
        into[2 * alone], into[2 * merged] = torch.arange(kept), kept + partners[merged]
        into[1::2] = kept + torch.arange(len(tokens) // 2)
        blank = torch.zeros(len(tokens) - number, tokens.shape[1])
        sums = blank.index_add(0, into, (tokens * sizes).float()).to(tokens.dtype)
        sizes = blank[:, :1].index_add(0, into, sizes.float()).to(tokens.dtype)
        tokens, places = sums / sizes, into[places]
    return tokens, places


def groups(number: int = 5, tokens: int = 81, width: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(number, tokens, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tokens", "target"), [(81, 64), (100, 16), (51, 1), (8, 8)])
def test_merging_equals_a_loop_over_the_groups(tokens, target, dtype):
    values = groups(tokens=tokens).to(dtype)
    wanted, places = zip(*(looped(group, target, 4) for group in values), strict=True)
    assert torch.equal(destinations(values, target, 4, dtype), torch.stack(places))
    close = {torch.float32: 1e-6, torch.bfloat16: 0.03, torch.float16: 0.004}[dtype]
    torch.testing.assert_close(merge([values], target, 4), torch.stack(wanted), atol=close, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equally_similar_tokens_merge_in_the_order_of_their_places(dtype):
    values = torch.ones(1, 12, 8, dtype=dtype)
    assert destinations(values, 9, 4, dtype).tolist() == [[3, 3, 3, 4, 3, 5, 0, 6, 1, 7, 2, 8]]


def test_a_group_becomes_the_same_in_any_company(monkeypatch):
    values = groups()
    alone = torch.cat([merge([group[None]], 64, 4) for group in values])
    for numbers in (1, 2 * 81 * 16, 2**26):
        monkeypatch.setattr(merging, "LOT_NUMBERS", {"cpu": numbers})
        for given in ([values], [values[:1], values[1:4], values[4:]]):
            assert torch.equal(merge(given, 64, 4), alone)


def test_a_gradient_reaches_every_token_that_was_merged(monkeypatch):
    monkeypatch.setattr(merging, "LOT_NUMBERS", {"cpu": 2 * 81 * 16})
    weights, values = groups(tokens=20, seed=1), groups().requires_grad_()
    (merge([values[:2], values[2:]], 20, 4) * weights).sum().backward()
    places = destinations(values.detach(), 20, 4, torch.float32)
    means = torch.nn.functional.one_hot(places, 20).mT.float()
    means = means / means.sum(-1, keepdim=True)
    torch.testing.assert_close(values.grad, means.mT @ weights)
    other = values.detach().clone().requires_grad_()
    merge([other], 20, 4)[:, :1].sum().backward()
    assert int(other.grad.any(-1).sum()) == int((places == 0).sum())


def test_tokens_are_compared_in_the_dtype_that_is_named_and_under_autocast_too():
    values = groups(64, seed=2)
    exact = merge([values], 16, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(merge([values], 16, 4), exact)
        assert merge([values.bfloat16()], 16, 4).dtype == torch.bfloat16
    assert not torch.allclose(merge([values], 16, 4, torch.bfloat16), exact, atol=0.1)
    half = values.half()
    found = merge([half], 16, 4, torch.float32).float()
    torch.testing.assert_close(found, merge([half.float()], 16, 4), atol=2e-3, rtol=0)


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("columns", [1, 2, 4])
def test_tokens_of_crops_stand_by_rows_of_the_whole_picture(rows, columns):
    side, number = 3, 1 + rows * columns
    tokens = torch.arange(number * side**2).view(number, side**2, 1)
    picture = tokens[1:].view(rows, columns, side, side).permute(0, 2, 1, 3).flatten()
    wanted = torch.cat([tokens[0].flatten(), picture])
    assert torch.equal(by_rows(tokens, torch.tensor([rows, columns]))[:, 0], wanted)


def test_a_picture_without_crops_is_its_own_tokens():
    assert torch.equal(by_rows(groups(1), torch.zeros(2)), groups(1)[0])


def test_items_of_several_groups_are_condensed_and_measured():
    spec = {"type": "token_merging", "input_size": 16, "output_size": 8, "group_tokens": 81, "tokens": 64, "heads": 4}
    config = connector_config({**spec, "tiled": True})
    values = groups(6)
    items = [values[:5].flatten(0, 1), values[5]]
    tiles = [{"tiles": torch.tensor([2.0, 2.0])}, {"tiles": torch.tensor([0.0, 0.0])}]
    found = config.condense(items, tiles)
    assert [tuple(block.shape) for block in found] == [config.condensed_shape(tuple(item.shape)) for item in items]
    torch.testing.assert_close(found[0], by_rows(merge([values[:5]], 64, 4), tiles[0]["tiles"]))
    plain = connector_config(spec).condense(items, [{}, {}])
    assert torch.equal(plain[0], merge([values[:5]], 64, 4).flatten(0, 1))
    assert config.build()(found[0]).shape == (5 * 64, 8)
    measure = Measure(tower={"type": "clip", "hidden_size": 16, "image_size": 126}, connector=spec)
    assert measure((3, 4, 126, 126)).tokens == 4 * 64
    with pytest.raises(UserError, match=r"features of shape \(324, 16\); it merges groups of 80 features$"):
        Measure(tower=measure.tower, connector={**spec, "group_tokens": 80})((3, 4, 126, 126))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"group_tokens": 36}, "group_tokens 36 is less than tokens 64; take larger pictures or fewer tokens"),
        ({"heads": 5}, "input_size 1024 does not divide into 5 heads"),
        ({"tokens": 60, "tiled": True}, "tokens 60 is no square number, which tiled needs"),
        ({"dtype": "int8"}, "dtype is 'int8'; expected float32, bfloat16, float16 or null"),
        ({"tokens": 0}, "tokens 0 is less than 1"),
    ],
)
def test_sizes_that_contradict_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        connector_config({"type": "token_merging", **sizes})


@pytest.mark.parametrize("tokens", [196, 256, 784, 1024, 3136])
def test_rounds_halve_until_the_target(tokens):
    rounds = schedule(tokens, 64)
    assert tokens - sum(rounds) == 64
    assert len(rounds) == math.ceil(math.log2(tokens / 64))
    with pytest.raises(ValueError, match="63 tokens cannot be merged to 64"):
        schedule(63, 64)
