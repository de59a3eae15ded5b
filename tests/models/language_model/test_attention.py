import pytest
import torch
from tiny_models import packed, random_example, tiny_model
from torch.nn.functional import scaled_dot_product_attention

from vidtune.errors import UserError
from vidtune.models.language_model import attention
from vidtune.models.language_model.attention import packed_attention, packed_kernel

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def heads(length: int, count: int, seed: int, width: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, count, length, width, generator=generator).requires_grad_()


def reference(query, key, value, mask) -> torch.Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def attend(*inputs: torch.Tensor, **options) -> torch.Tensor:
    return packed_attention(torch.nn.Module(), *inputs, None, **options)[0]


@pytest.mark.parametrize("key_heads", [4, 2])
def test_packed_attention_and_its_gradients_are_block_diagonal_and_causal(key_heads):
    inputs = heads(9, 4, 0), heads(9, key_heads, 1), heads(9, key_heads, 2)
    owner = torch.tensor([0, 0, 1, 1, 1, 1, 2, 2, 2])
    mask = (owner[:, None] == owner) & torch.ones(9, 9).tril().bool()
    output, expected = attend(*inputs, cu_seqlens=[0, 2, 6, 9]), reference(*inputs, mask)
    torch.testing.assert_close(output, expected, atol=1e-6, rtol=0)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
    gradients, theirs = (torch.autograd.grad((x * weights).sum(), inputs) for x in (output, expected))
    torch.testing.assert_close(gradients, theirs, atol=1e-5, rtol=0)


def test_several_new_tokens_behind_a_cache_see_the_cache_and_their_past():
    query, key, value = heads(3, 4, 0), heads(8, 4, 1), heads(8, 4, 2)
    mask = torch.ones(3, 8).tril(5).bool()
    torch.testing.assert_close(attend(query, key, value), reference(query, key, value, mask), atol=1e-6, rtol=0)


@pytest.mark.parametrize("option", ["sliding_window", "softcap"])
def test_attention_of_another_kind_is_refused(option):
    query = heads(3, 4, 0)
    with pytest.raises(NotImplementedError, match=option):
        attend(query, query, query, **{option: 2})


@pytest.mark.parametrize(
    ("family", "settings", "named"),
    [
        ("mistral", {}, "sliding_window"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}, "sliding_attention"),
        ("gemma2", {"layer_types": ["full_attention"] * 2, "head_dim": 8}, "attn_logit_softcapping"),
    ],
)
def test_models_with_attention_of_another_kind_are_refused_when_built(family, settings, named):
    with pytest.raises(UserError, match=f"language model '{family}' has {named}"):
        tiny_model(family, **settings)


def test_a_pack_takes_the_kernel_that_its_device_dtype_and_dropout_allow(monkeypatch):
    installed = {"flash_attn", "torch.nn.attention.varlen"}
    monkeypatch.setattr(attention, "_has_flash", lambda device: device.index == 0)
    monkeypatch.setattr(attention, "_is_installed", lambda module: module in installed)
    cpu, new, old = torch.device("cpu"), torch.device("cuda", 0), torch.device("cuda", 1)
    assert packed_kernel(new, torch.bfloat16, 64) == "flash_attn"
    assert packed_kernel(new, torch.float16, 64, dropout=0.1) == "flash_attn"
    installed.remove("flash_attn")
    assert packed_kernel(new, torch.bfloat16, 64) == "varlen_attn"
    assert packed_kernel(new, torch.bfloat16, 64, dropout=0.1) == "one_by_one"
    assert packed_kernel(new, torch.float32, 64) == "one_by_one"
    assert packed_kernel(new, torch.bfloat16, 260) == "one_by_one"
    assert packed_kernel(old, torch.bfloat16, 64) == "one_by_one"
    assert packed_kernel(cpu, torch.bfloat16, 64) == "one_by_one"


def test_kernels_for_variable_lengths_get_heads_last_in_the_dtype_of_autocast_and_boundaries_made_once(monkeypatch):
    calls = []

    def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
        calls.append((query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, window_size))
        return query

    monkeypatch.setattr(attention, "packed_kernel", lambda *args: "varlen_attn")
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    inputs = heads(9, 4, 0), heads(9, 2, 1), heads(9, 2, 2)
    with torch.inference_mode():
        attend(*inputs, cu_seqlens=[0, 2, 6, 9])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = attend(*inputs, cu_seqlens=[0, 2, 6, 9], scaling=0.5)
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, window = calls[1]
    torch.testing.assert_close(output, inputs[0].transpose(1, 2).bfloat16())
    # This varlen_attn, like torch 2.11's, has no grouped heads.
    torch.testing.assert_close(key, inputs[1][0].transpose(0, 1).repeat_interleave(2, 1).bfloat16())
    assert query.shape == key.shape == value.shape and query.dtype == value.dtype == torch.bfloat16
    assert cu_seq_q.tolist() == [0, 2, 6, 9] and cu_seq_q.dtype == torch.int32
    assert (max_q, max_k, scale, window) == (4, 4, 0.5, (-1, 0))
    assert cu_seq_q is cu_seq_k is calls[0][3] and not cu_seq_q.is_inference()


@CUDA
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("kernel", ["flash_attn", "varlen_attn"])
def test_kernels_for_variable_lengths_equal_one_by_one(kernel, key_heads, monkeypatch):
    modules = {"flash_attn": "flash_attn", "varlen_attn": "torch.nn.attention.varlen"}
    if not attention._is_installed(modules[kernel]):
        pytest.skip(f"needs {kernel}")
    made = heads(300, 4, 0, 64), heads(300, key_heads, 1, 64), heads(300, key_heads, 2, 64)
    inputs = [x.detach().cuda().bfloat16().requires_grad_() for x in made]
    results = []
    for name in (kernel, "one_by_one"):
        monkeypatch.setattr(attention, "packed_kernel", lambda *args, name=name: name)
        output = attend(*inputs, cu_seqlens=[0, 7, 8, 200, 300])
        weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(3)).cuda()
        results.append([output, *torch.autograd.grad((output * weights).sum(), inputs)])
    torch.testing.assert_close(*results, atol=0.03, rtol=0.03)


@CUDA
def test_training_step_on_cuda_in_bfloat16_equals_the_cpu_in_float32():
    model = tiny_model("qwen2", hidden_size=64).train()
    batch = packed([random_example(model, kind, seed) for seed, kind in enumerate(("video", "image", ""))])
    expected = model.loss_sum(batch)
    expected.backward()
    gradient = model.language_model.lm_head.weight.grad.clone()
    model.zero_grad()
    model.cuda()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = model.loss_sum(batch.to("cuda"))
    loss.backward()
    torch.testing.assert_close(loss.cpu(), expected, rtol=0.02, atol=0)
    difference = model.language_model.lm_head.weight.grad.cpu() - gradient
    assert difference.norm() < 0.05 * gradient.norm()


def test_left_padded_batch_generates_what_single_prompts_do():
    model = tiny_model().language_model
    prompts = [torch.randint(3, 400, (n,), generator=torch.Generator().manual_seed(n)) for n in (3, 7, 5)]
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    single = [model.generate(p[None], attention_mask=torch.ones(1, len(p)), **options)[0, len(p) :] for p in prompts]
    ids = torch.stack([torch.nn.functional.pad(p, (7 - len(p), 0)) for p in prompts])
    together = model.generate(ids, attention_mask=(ids > 0).long(), **options)[:, 7:]
    assert together.tolist() == [row.tolist() for row in single]
