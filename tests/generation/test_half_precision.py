"""Attention over a shared prefix in half precision is as exact as torch's own, measured against float64."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vidtune.generation import prefix_attention
from vidtune.generation.prefix_attention import attend_with_total
from vidtune.generation.prompt_tokens import PromptTokens
from vidtune.generation.shared_prefix import Branches, Layout

HEADS, GROUPS, WIDTH, PREFIX, TOKENS, QUESTIONS = 8, 4, 64, 300, 6, 3


def drawn(dtype: torch.dtype, deviation: float, seed: int) -> tuple[Tensor, ...]:
    """Queries, keys and values of the questions, keys and values of the prefix; scores have this deviation."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(HEADS,), (GROUPS,), (GROUPS,)]
    own = [torch.randn(QUESTIONS * TOKENS, *heads, WIDTH, generator=generator) for heads in shapes]
    shared = [torch.randn(GROUPS, PREFIX, WIDTH, generator=generator) for _ in range(2)]
    own[0] *= deviation
    return tuple(tensor.to(dtype) for tensor in (*own, *shared))


def over_a_shared_prefix(query: Tensor, key: Tensor, value: Tensor, *shared: Tensor) -> Tensor:
    rows = [torch.zeros(TOKENS, 8)] * QUESTIONS
    prefix: Any = SimpleNamespace(layers=[shared], lengths=[PREFIX], length=PREFIX, opened=None, language_model=None)
    branches = Branches(prefix, PromptTokens.of(rows, begin=PREFIX))
    branches.lengths, branches.layouts = (
        [[TOKENS] * QUESTIONS],
        [Layout([0] * QUESTIONS, [TOKENS] * QUESTIONS, query.device, [PREFIX] * QUESTIONS, branches.prefixes)],
    )
    return branches.attend(0, query, key, value, WIDTH**-0.5)


def by_torch(query: Tensor, key: Tensor, value: Tensor, *shared: Tensor) -> Tensor:
    mask = torch.ones(TOKENS, PREFIX + TOKENS, dtype=torch.bool).tril(PREFIX)
    outputs = []
    for part in range(QUESTIONS):
        q, k, v = (x[part * TOKENS : (part + 1) * TOKENS].transpose(0, 1)[None] for x in (query, key, value))
        k, v = (torch.cat([first[None], own], 2) for first, own in zip(shared, (k, v), strict=True))
        outputs.append(scaled_dot_product_attention(q, k, v, mask, scale=WIDTH**-0.5, enable_gqa=True)[0])
    return torch.cat(outputs, 1).transpose(0, 1)


def rms(error: Tensor) -> float:
    return error.double().square().mean().sqrt().item()


@pytest.mark.parametrize("deviation", [0.1, 1, 4, 16, 64])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_error_is_not_above_that_of_torch(dtype: torch.dtype, deviation: float) -> None:
    ours = theirs = 0.0
    for seed in range(3):
        tensors = drawn(dtype, deviation, seed)
        exact = by_torch(*(tensor.double() for tensor in tensors))
        found = over_a_shared_prefix(*tensors)
        assert found.dtype == dtype
        ours, theirs = ours + rms(found - exact), theirs + rms(by_torch(*tensors) - exact)
    assert ours < 1.1 * theirs


def test_sums_and_weights_are_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = (torch.randn(2, 3, 11, 8).bfloat16() for _ in range(3))
    output, total = attend_with_total(query, key, value, 0.3)
    assert output.dtype == total.dtype == torch.float32
    # As on a device that multiplies to float32 products.
    monkeypatch.setattr(prefix_attention, "_has_float32_products", lambda device: True)
    monkeypatch.setattr(prefix_attention, "_float32_product", lambda one, other: one.float() @ other.float())
    for one, other in zip(attend_with_total(query, key, value, 0.3), (output, total), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=5e-3)


def test_the_product_to_float32_has_the_right_shape() -> None:
    one, other = torch.empty(2, 3, 5, 8, dtype=torch.bfloat16, device="meta"), torch.empty(2, 3, 8, 7, device="meta")
    found = prefix_attention._float32_product(one, other.bfloat16()[..., :6])
    assert found.shape == (2, 3, 5, 6) and found.dtype == torch.float32
