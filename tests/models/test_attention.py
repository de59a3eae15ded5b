import pytest
import torch
from tiny_models import tiny_model
from torch.nn.functional import scaled_dot_product_attention

from vidtune.models.attention import packed_attention


def heads(length: int, count: int, seed: int) -> torch.Tensor:
    return torch.randn(1, count, length, 8, generator=torch.Generator().manual_seed(seed))


def reference(query, key, value, mask) -> torch.Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


@pytest.mark.parametrize("key_heads", [4, 2])
def test_packed_attention_is_block_diagonal_and_causal(key_heads):
    query, key, value = heads(9, 4, 0), heads(9, key_heads, 1), heads(9, key_heads, 2)
    owner = torch.tensor([0, 0, 1, 1, 1, 1, 2, 2, 2])
    mask = (owner[:, None] == owner) & torch.ones(9, 9).tril().bool()
    output, _ = packed_attention(torch.nn.Module(), query, key, value, None, cu_seqlens=[0, 2, 6, 9])
    torch.testing.assert_close(output, reference(query, key, value, mask), atol=1e-6, rtol=0)


def test_several_new_tokens_behind_a_cache_see_the_cache_and_their_past():
    query, key, value = heads(3, 4, 0), heads(8, 4, 1), heads(8, 4, 2)
    mask = torch.ones(3, 8).tril(5).bool()
    output, _ = packed_attention(torch.nn.Module(), query, key, value, None)
    torch.testing.assert_close(output, reference(query, key, value, mask), atol=1e-6, rtol=0)


def test_sliding_window_is_refused():
    query = heads(3, 4, 0)
    with pytest.raises(NotImplementedError, match="sliding window"):
        packed_attention(torch.nn.Module(), query, query, query, None, sliding_window=2)


def test_left_padded_batch_generates_what_single_prompts_do():
    model = tiny_model().language_model
    prompts = [torch.randint(3, 400, (n,), generator=torch.Generator().manual_seed(n)) for n in (3, 7, 5)]
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    single = [model.generate(p[None], attention_mask=torch.ones(1, len(p)), **options)[0, len(p) :] for p in prompts]
    ids = torch.stack([torch.nn.functional.pad(p, (7 - len(p), 0)) for p in prompts])
    together = model.generate(ids, attention_mask=(ids > 0).long(), **options)[:, 7:]
    assert together.tolist() == [row.tolist() for row in single]
