"""Worlds that a recipe can name, and how the world of a recipe is rendered."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.machine.progress import ProgressCallback, no_progress
from vidtune.processing.prompts.known import written_texts
from vidtune.recipe.files import load_recipe
from vidtune.recipe.shipped import WORLD_RECIPES
from vidtune.registry import SYSTEMS
from vidtune.spelling import suggestion
from vidtune.world.dataset import WorldSpec, build_world
from vidtune.world.event_dataset import EventWorldSpec, build_event_world
from vidtune.world.moments.dataset import MomentWorldSpec, build_moment_world
from vidtune.world.target_dataset import TargetWorldSpec, build_target_world


@dataclass(frozen=True)
class World:
    """A kind of world in the size that the demo renders.

    Args:
        folder: name of its folder below the folder of the demo.
        build: function that renders its missing files, with its spec; ``texts`` are strings that its tokenizer is
            trained on besides its own, and ``special`` its special tokens.
    """

    folder: str
    build: "partial[None]"


LARGEST = 10**7
"""Bound of every setting of a world."""

WORLDS = {
    "shapes": World("world", partial(build_world, spec=WorldSpec())),
    "events": World("events_world", partial(build_event_world, spec=EventWorldSpec())),
    "targets": World("targets_world", partial(build_target_world, spec=TargetWorldSpec())),
    "moments": World("moments_world", partial(build_moment_world, spec=MomentWorldSpec())),
}


def world_of_recipe(recipe: str) -> str:
    """Returns the kind of world that a recipe names, a key of `WORLDS`.

    Args:
        recipe: name of a shipped recipe, or path of a file.

    Raises:
        UserError: the recipe names no world.
    """
    kind = load_recipe(recipe, expand=False).world
    if kind is None:
        raise UserError(f"{recipe} names no world to render (world: {' or '.join(WORLDS)}); vidtune train runs it")
    return kind


def sized(kind: str, settings: Mapping[str, str]) -> World:
    """Returns a kind of world in another size.

    Args:
        kind: a key of `WORLDS`.
        settings: field of its spec -> value as text, such as ``{"videos": "20"}``.

    Raises:
        UserError: no such kind or field, or a value that is no number at least 0; names the nearest.
    """
    if kind not in WORLDS:
        raise UserError(f"no world {kind!r}; {suggestion(kind, WORLDS)}")
    world = WORLDS[kind]
    spec = world.build.keywords["spec"]
    known = {name: type(value) for name, value in asdict(spec).items()}
    numbers: dict[str, Any] = {}
    for name, text in settings.items():
        if name not in known:
            raise UserError(f"world {kind}: no setting {name!r}; {suggestion(name, known)}")
        try:
            numbers[name] = known[name](text)
        except ValueError:
            numbers[name] = -1
        if not 0 <= numbers[name] < LARGEST:
            expected = "whole number" if known[name] is int else "number"
            raise UserError(f"world {kind}: {name} is {text!r}; expected a {expected} of at least 0")
    return replace(world, build=partial(world.build.func, spec=replace(spec, **numbers)))


def render_world(kind: str, folder: Path, progress: ProgressCallback = no_progress, world: World | None = None) -> None:
    """Render the missing files of a world into a folder: the recipe's DATA_ROOT.

    The tokenizer of a world is trained on the prompts of one system, so that it does not depend on the recipe for which
    the world is rendered first.

    Args:
        kind: a key of `WORLDS`.
        progress: progress callback; its task is "files".
        world: the world in another size, see `sized`; None: as the demo renders it.
    """
    dialect = SYSTEMS[load_recipe(WORLD_RECIPES[kind], expand=False).system].dialect
    texts, special = written_texts(dialect.prompts.values())
    (world or WORLDS[kind]).build(folder, texts=texts, special=special, progress=partial(progress, "files"))
