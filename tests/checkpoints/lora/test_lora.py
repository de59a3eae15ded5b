"""Low-rank adapters in a component: where they are put, how they start, what they leave alone."""

import logging

import pytest
import torch
from tiny_models import packed, random_example, tiny_model

from vidtune.checkpoints.lora.adapter_files import is_adapter_weight
from vidtune.checkpoints.lora.injection import add_adapters, target_layers
from vidtune.errors import UserError
from vidtune.models.video_lm import VideoLM
from vidtune.recipe.types import LoRA

ALL_BUT_HEAD = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def factors(part: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter for name, parameter in part.named_parameters() if is_adapter_weight(name)}


def move(part: torch.nn.Module) -> None:
    """Give the second factors, which start at zero, random values."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in factors(part).items():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)


@pytest.fixture
def model() -> VideoLM:
    return tiny_model()


def test_a_package_that_peft_imports_does_not_ask_for_others(model, monkeypatch):
    talkative = logging.getLogger("bitsandbytes.backends.cpu.ops")
    monkeypatch.setattr(talkative, "level", logging.NOTSET)
    add_adapters(model.language_model, LoRA(rank=3), 0, "here")
    assert talkative.level == logging.ERROR


def test_all_linear_layers_but_the_head_are_adapted_in_the_named_component_only(model):
    names = add_adapters(model.language_model, LoRA(rank=3), 0, "here")
    assert set(names) == ALL_BUT_HEAD
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name in factors(model.language_model)}
    assert adapted == ALL_BUT_HEAD
    assert not factors(model.towers) and not factors(model.connectors)
    assert {min(f.shape) for f in factors(model.language_model).values()} == {3}


def test_layers_and_ranks_may_differ_between_components(model):
    add_adapters(model.language_model, LoRA(rank=2, layers=("q_proj", "lm_head")), 0, "llm")
    add_adapters(model.towers["video"], LoRA(rank=5, layers=("layers.0.mlp.fc1",)), 0, "tower")
    add_adapters(model.connectors["visual"], LoRA(rank=4), 0, "connector")
    assert len(factors(model.language_model)) == 2 * 3
    assert list(factors(model.towers["video"])) == [
        f"encoder.layers.0.mlp.fc1.lora_{side}.default.weight" for side in "AB"
    ]
    assert [min(f.shape) for f in factors(model.connectors).values()] == [4] * 4
    assert not factors(model.towers["image"])


def test_wrong_layers_name_the_nearest_one(model):
    with pytest.raises(UserError, match=r"stage 'x': no linear layer is named 'q_porj'; did you mean 'q_proj'"):
        target_layers(model.language_model, LoRA(layers=("q_porj",)), "stage 'x'")
    with pytest.raises(UserError, match="has no linear layers to adapt"):
        target_layers(torch.nn.Sequential(torch.nn.GELU()), LoRA(), "connector")


def test_a_head_that_shares_the_embeddings_is_refused():
    tied = tiny_model(tie_word_embeddings=True)
    with pytest.raises(UserError, match="'lm_head' shares its weights with the embeddings"):
        target_layers(tied.language_model, LoRA(layers=("q_proj", "lm_head")), "here")
    assert len(target_layers(tied.language_model, LoRA(), "here")) == 2 * 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_factors_are_float32_and_a_function_of_the_seed_alone(dtype, model):
    add_adapters(model.language_model, LoRA(), 7, "here")
    other = tiny_model()
    other.language_model.to(dtype)
    torch.manual_seed(99)
    expected = torch.rand(1)
    torch.manual_seed(99)
    add_adapters(other.language_model, LoRA(), 7, "here")
    assert torch.equal(torch.rand(1), expected)
    again = factors(other.language_model)
    for name, factor in factors(model.language_model).items():
        assert again[name].dtype == torch.float32
        assert torch.equal(again[name], factor)
    third = tiny_model()
    add_adapters(third.language_model, LoRA(), 8, "here")
    name = next(iter(again))
    assert not torch.equal(factors(third.language_model)[name], again[name])


def test_a_new_adapter_changes_nothing_and_dropout_acts_in_training_only(model):
    batch = packed([random_example(model, "video", 0)])
    with torch.no_grad():
        before = model.loss_sum(batch)
        add_adapters(model.language_model, LoRA(rank=4, dropout=0.5), 0, "here")
        assert torch.equal(model.loss_sum(batch), before)
        move(model.language_model)
        answering = [float(model.eval().loss_sum(batch)) for _ in range(2)]
        training = [float(model.train().loss_sum(batch)) for _ in range(2)]
    assert answering[0] == answering[1] != float(before)
    assert training[0] != training[1]


def test_gradient_checkpointing_over_frozen_embeddings_gives_the_same_gradients(model):
    batch = packed([random_example(model, "video", 0), random_example(model, "", 1)])
    add_adapters(model.language_model, LoRA(rank=4), 0, "here")
    move(model.language_model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_adapter_weight(name) or name.startswith("connectors."))
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.language_model.gradient_checkpointing_enable()
        model.zero_grad()
        model.train().loss_sum(batch).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad})
    plain, checkpointed = gradients
    assert len(plain) == 2 * 2 * 7 + 4
    for name, gradient in plain.items():
        assert float(gradient.abs().max()) > 0, name
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-5)
