from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from tiny_models import FAMILY_SETTINGS, packed, random_example, tiny_model
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vidtune.models.language_model.loss import head_loss_sum
from vidtune.registry import LANGUAGE_MODELS

WIDTH, VOCABULARY = 16, 301
CHUNK = 4 * VOCABULARY * 7  # bytes of seven positions' logits


def soft_cap(logits):
    return torch.tanh(logits / 2) * 2


def inputs(count: int = 30, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(count, WIDTH, generator=generator, dtype=dtype, requires_grad=True)
    return hidden, torch.randint(VOCABULARY, (count,), generator=generator)


def head(kind: str) -> nn.Module:
    torch.manual_seed(0)
    linear = nn.Linear(WIDTH, VOCABULARY, bias=kind == "biased")
    if kind == "frozen":
        return linear.requires_grad_(False)
    if kind != "adapted":
        return linear
    parent = nn.ModuleDict({"lm_head": linear}).requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False), parent)
    return parent["lm_head"]


def whole(module, hidden, targets, adjust=None):
    """The plain way: all logits at once."""
    logits = module(hidden)
    return cross_entropy((adjust(logits) if adjust else logits).float(), targets, reduction="sum")


def loss_and_gradients(loss, module, hidden):
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [loss, *torch.autograd.grad(2 * loss, [hidden, *trained])]


@pytest.mark.parametrize("adjust", [None, soft_cap], ids=["", "soft-capped"])
@pytest.mark.parametrize("kind", ["plain", "biased", "frozen", "adapted"])
def test_chunked_loss_equals_the_loss_of_all_logits(kind, adjust):
    module, (hidden, targets) = head(kind), inputs()
    chunked = loss_and_gradients(head_loss_sum(module, hidden, targets, adjust, CHUNK), module, hidden)
    plain = loss_and_gradients(whole(module, hidden, targets, adjust), module, hidden)
    assert len(chunked) == {"plain": 3, "biased": 4, "frozen": 2, "adapted": 4}[kind]
    torch.testing.assert_close(chunked, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "biased", "frozen", "adapted"])
def test_loss_under_bfloat16_autocast_is_float32_and_equals_that_of_all_logits(kind):
    module, (hidden, targets) = head(kind), inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, reference = head_loss_sum(module, hidden, targets, None, CHUNK), whole(module, hidden, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, reference)  # both round the logits alike
    chunked, plain = (loss_and_gradients(value, module, hidden) for value in (loss, reference))
    assert [x.dtype for x in chunked] == [x.dtype for x in plain]
    torch.testing.assert_close(chunked, plain, atol=0.03, rtol=0.02)


def test_gradients_of_bfloat16_weights_are_summed_in_float32():
    module, (hidden, targets) = head("plain").bfloat16(), inputs(700, torch.bfloat16)
    exact = head("plain").double()
    exact.load_state_dict(module.state_dict())
    positions = hidden.detach().double().requires_grad_()
    expected = loss_and_gradients(whole(exact, positions, targets), exact, positions)[2]
    errors = {}
    for rows in (7, 700):
        loss = head_loss_sum(module, hidden, targets, None, 4 * VOCABULARY * rows)
        gradient = loss_and_gradients(loss, module, hidden)[2]
        errors[rows] = (gradient.double() - expected).norm() / expected.norm()
    assert errors[7] < 1.5 * errors[700]


@pytest.mark.parametrize("kind", ["plain", "frozen", "adapted"])
def test_no_tensor_is_larger_than_a_chunk_of_logits_or_the_weight(kind):
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            output = function(*args, **(kwargs or {}))
            sizes.extend(x.untyped_storage().nbytes() for x in tree_leaves(output) if isinstance(x, torch.Tensor))
            return output

    module, (hidden, targets) = head(kind), inputs(200)
    with Sizes():
        head_loss_sum(module, hidden, targets, None, CHUNK).backward()
    assert max(sizes) <= max(CHUNK, 4 * WIDTH * VOCABULARY)


@pytest.mark.parametrize("kind", ["plain", "biased", "adapted"])
def test_no_positions_give_zero_with_zero_gradients(kind):
    module, (hidden, targets) = head(kind), inputs(0)
    loss, *gradients = loss_and_gradients(head_loss_sum(module, hidden, targets), module, hidden)
    assert loss == 0 and loss.dtype == torch.float32
    assert all(gradient.count_nonzero() == 0 for gradient in gradients)


def test_loss_without_gradients_computes_none():
    module, (hidden, targets) = head("plain"), inputs()
    with torch.no_grad():
        loss = head_loss_sum(module, hidden, targets, None, CHUNK)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, whole(module, hidden, targets))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", LANGUAGE_MODELS.names())
def test_loss_of_a_family_equals_that_of_its_own_forward(family, tied):
    settings = {**FAMILY_SETTINGS.get(family, {}), **({"final_logit_softcapping": 0.5} if family == "gemma2" else {})}
    model = tiny_model(family, tie_word_embeddings=tied, **settings)
    batch = packed([random_example(model, "image", 0)])
    plain = model(batch.input_ids, labels=batch.labels, media=batch.media).loss * batch.num_supervised
    weights = [model.get_output_embeddings().weight, next(model.connectors.parameters())]
    loss = model.loss_sum(batch)
    torch.testing.assert_close(loss, plain)
    for ours, theirs in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_an_unknown_family_takes_its_own_forward(monkeypatch):
    model = tiny_model("llama")
    batch = packed([random_example(model, "image", 0)])
    expected = model.loss_sum(batch)
    monkeypatch.setattr(model, "family", replace(model.family, logits=None))
    torch.testing.assert_close(model.loss_sum(batch), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("liger", [False, True])
def test_loss_on_cuda_equals_that_of_all_logits(liger, monkeypatch):
    from vidtune.models.language_model import loss as module_under_test

    if liger and not module_under_test.has_liger():
        pytest.skip("needs liger-kernel")
    monkeypatch.setattr(module_under_test, "has_liger", lambda: liger)
    module, (hidden, targets) = head("plain").cuda(), inputs()
    hidden, targets = hidden.detach().cuda().requires_grad_(), targets.cuda()
    chunked = loss_and_gradients(head_loss_sum(module, hidden, targets, None, CHUNK), module, hidden)
    torch.testing.assert_close(
        chunked, loss_and_gradients(whole(module, hidden, targets), module, hidden), atol=1e-3, rtol=1e-3
    )
