from typing import get_args

import pytest

from vidtune.cli.demo import demo
from vidtune.errors import UserError
from vidtune.recipe.files import dump_recipe, load_recipe
from vidtune.recipe.fingerprint import recipe_fingerprint
from vidtune.recipe.shipped import WORLD_RECIPES
from vidtune.recipe.types import Recipe
from vidtune.world import WORLDS


def test_a_recipe_can_name_each_world_and_each_world_has_a_folder_of_its_own():
    (named, _) = get_args(Recipe.model_fields["world"].annotation)
    assert set(get_args(named)) == set(WORLDS) == set(WORLD_RECIPES)
    assert len({world.folder for world in WORLDS.values()}) == len(WORLDS)


def test_the_world_does_not_change_the_weights_a_recipe_gives():
    recipe = load_recipe(WORLD_RECIPES["shapes"], expand=False)
    assert recipe.world == "shapes"
    assert recipe_fingerprint(recipe.model_copy(update={"world": None})) == recipe_fingerprint(recipe)


def test_the_demo_refuses_a_recipe_without_a_world(tmp_path):
    recipe = load_recipe(WORLD_RECIPES["shapes"], expand=False)
    path = tmp_path / "mine.yaml"
    path.write_text(dump_recipe(recipe.model_copy(update={"world": None})))
    with pytest.raises(UserError, match=r"mine.yaml names no world to render \(world: shapes or .* or moments\)"):
        demo(tmp_path / "out", str(path))
    assert not (tmp_path / "out").exists()
