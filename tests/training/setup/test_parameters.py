from typing import Any

import pytest
import torch

from vidtune.checkpoints.build import build_model
from vidtune.errors import UserError
from vidtune.recipe.types import Stage, Train
from vidtune.training.setup.parameters import parameter_groups, prepare_components, select_components
from vidtune.training.setup.starting_model import trained_components


def rates(numbers: dict[str, float]) -> dict[str, Train]:
    return {name: Train(learning_rate=rate) for name, rate in numbers.items()}


NAMES = ["towers.image", "towers.video", "connectors.visual", "language_model"]


@pytest.mark.parametrize(
    ("globs", "chosen"),
    [
        ({"connectors": 1.0}, ["connectors.visual"]),
        ({"towers.*": 1.0}, ["towers.image", "towers.video"]),
        ({"language_model": 1.0, "towers.video": 2.0}, ["towers.video", "language_model"]),
        ({"*": 1.0}, NAMES),
    ],
)
def test_globs_choose_components(globs: dict[str, float], chosen: list[str]) -> None:
    assert list(select_components(NAMES, rates(globs), "align")) == chosen


def test_component_that_does_not_exist_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"stage 'align': .*'connectors.visula'.*did you mean 'connectors.visual'"):
        select_components(NAMES, rates({"connectors.visula": 1.0}), "align")


def test_component_named_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"'towers.video' twice, by 'towers' and 'towers.video'"):
        select_components(NAMES, rates({"towers": 1.0, "towers.video": 2.0}), "align")


def test_every_component_has_its_rate_and_norms_and_biases_no_decay(make_recipe) -> None:
    model = build_model(make_recipe())
    trained = rates({"connectors.visual": 1e-3, "language_model": 2e-5})
    prepare_components(model, trained, torch.float32)
    groups = parameter_groups(model, trained, weight_decay=0.1)
    facts = {
        id(parameter): (group["component"], group["lr"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    parts = model.components()
    for name, how in trained.items():
        for key, parameter in parts[name].named_parameters():
            exempt = key.endswith("bias") or "norm" in key
            assert facts.pop(id(parameter)) == (name, how.learning_rate, 0.0 if exempt else 0.1), key
    assert not facts


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_and_head_may_have_a_rate_of_their_own(make_recipe, optimizer: str, tied: bool) -> None:
    recipe = make_recipe()
    recipe = recipe.model_copy(update={"language_model": {**recipe.language_model, "tie_word_embeddings": tied}})
    model = build_model(recipe)
    trained = {"language_model": Train(learning_rate=1e-3, embedding_learning_rate=1e-4)}
    prepare_components(model, trained, torch.float32)
    groups = parameter_groups(model, trained, 0.1, optimizer)
    slow = {id(p) for group in groups if group["peak"] == 1e-4 for p in group["params"]}
    assert slow == {id(model.language_model.model.embed_tokens.weight), id(model.language_model.lm_head.weight)}
    assert len(slow) == (1 if tied else 2)
    members = [id(p) for group in groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in model.language_model.parameters())
    assert {group["peak"] for group in groups} == {1e-3, 1e-4}


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"connectors": {"learning_rate": 1.0, "embedding_learning_rate": 1.0}}, "only language_model has token embed"),
        ({"language_model": {"learning_rate": 1.0, "embedding_learning_rate": 1.0, "lora": {}}}, "with lora no embed"),
        ({"connectors": {"learning_rate": 1.0, "frozen_statistics": True}}, "frozen_statistics: .* no batch norm"),
    ],
)
def test_a_setting_of_what_the_component_lacks_is_refused(make_recipe, train: dict[str, Any], said: str) -> None:
    model = build_model(make_recipe())
    stage = Stage(name="s", train=train, data=[{"annotations": "a.json"}], global_batch_size=1)
    with pytest.raises(UserError, match=said):
        trained_components(stage, model)


def test_frozen_parts_are_cast_and_trained_parts_are_float32(make_recipe) -> None:
    model = build_model(make_recipe()).to(torch.float16)
    prepare_components(model, rates({"connectors.visual": 1.0}), torch.bfloat16)
    for name, part in model.components().items():
        dtype = torch.float32 if name == "connectors.visual" else torch.bfloat16
        assert {p.dtype for p in part.parameters()} == {dtype}
        assert {p.requires_grad for p in part.parameters()} == {name == "connectors.visual"}
    assert model.language_model.model.rotary_emb.inv_freq.dtype == torch.float16
