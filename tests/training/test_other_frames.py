"""A stage trains a published checkpoint with another number of frames of a video than it was published with."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import interpolate

import vidtune
from vidtune.recipe.types import Recipe
from vidtune.training.run import train_stages


def over_time(model: vidtune.Model) -> list[torch.Tensor]:
    """The tables of positions over time of a video tower, (frames, C) each."""
    return [weight[0] for name, weight in model.network.named_parameters() if weight.ndim == 3 and "video" in name]


@pytest.mark.whole
def test_a_published_checkpoint_is_trained_with_more_frames(make_recipe, media: Path, tmp_path: Path) -> None:
    common = {"max_steps": 1, "workers": 0}
    first = train_stages(make_recipe(**common), tmp_path / "first", progress=False)
    published = vidtune.load(first, device="cpu").save(tmp_path / "published", format="official")
    four = vidtune.load(published, device="cpu")

    later = make_recipe(name="longer", sizes={"towers.video": {"num_frames": 6}}, **common).model_dump(mode="json")
    for part in ("language_model", "towers", "tokenizer"):
        later.pop(part)
    recipe = Recipe.model_validate({**later, "checkpoint": str(published)})
    longer = vidtune.load(train_stages(recipe, tmp_path / "longer", progress=False), device="cpu")

    assert [len(table) for table in over_time(four)] == [4, 4]
    for before, after in zip(over_time(four), over_time(longer), strict=True):
        expected = interpolate(before.detach().T[None], size=6, mode="linear")[0].T
        torch.testing.assert_close(after.detach(), expected)
    asked = {"video": media / "red.mp4", "max_new_tokens": 2}
    assert longer.answer("What moves?", **asked).untrained == ""
    assert longer.answer("What moves?", frames=4, **asked).untrained == "4 frames where the model was trained with 6"
    again = vidtune.load(longer.save(tmp_path / "again", format="official"), device="cpu")
    assert [len(table) for table in over_time(again)] == [6, 6]
