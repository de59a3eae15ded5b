import pytest
import torch

from vidtune.checkpoints.build import build_model
from vidtune.errors import UserError
from vidtune.recipe.types import Train
from vidtune.training.setup.parameters import parameter_groups, prepare_components, select_components


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


def test_frozen_parts_are_cast_and_trained_parts_are_float32(make_recipe) -> None:
    model = build_model(make_recipe()).to(torch.float16)
    prepare_components(model, ["connectors.visual"], torch.bfloat16)
    for name, part in model.components().items():
        dtype = torch.float32 if name == "connectors.visual" else torch.bfloat16
        assert {p.dtype for p in part.parameters()} == {dtype}
        assert {p.requires_grad for p in part.parameters()} == {name == "connectors.visual"}
    assert model.language_model.model.rotary_emb.inv_freq.dtype == torch.float16
