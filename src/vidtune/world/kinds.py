"""Worlds that a recipe can name, and how the world of a recipe is rendered."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from vidtune.errors import UserError
from vidtune.machine.progress import ProgressCallback, no_progress
from vidtune.recipe.shipped import WORLD_RECIPES
from vidtune.recipe.types import load_recipe
from vidtune.registry import SYSTEMS
from vidtune.world.dataset import WorldSpec, build_world
from vidtune.world.event_dataset import EventWorldSpec, build_event_world
from vidtune.world.layout import RenderProgress
from vidtune.world.moments.dataset import MomentWorldSpec, build_moment_world
from vidtune.world.target_dataset import TargetWorldSpec, build_target_world


class Build(Protocol):
    """Function that renders the missing files of a world."""

    def __call__(
        self,
        out: Path,
        *,
        texts: Sequence[str] = (),
        special: Sequence[str] = (),
        progress: RenderProgress | None = None,
    ) -> None: ...


@dataclass(frozen=True)
class World:
    """A kind of world in the size that the demo renders.

    Args:
        folder: name of its folder below the folder of the demo.
        build: function that renders it; ``texts`` are strings that its tokenizer is trained on besides its own, and
            ``special`` its special tokens.
    """

    folder: str
    build: Build


_FIELD = re.compile(r"\{\w+\}|<\w+>")

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


def render_world(kind: str, out: Path, progress: ProgressCallback = no_progress) -> Path:
    """Render the missing files of a world below a folder and return the folder of the world: the recipe's DATA_ROOT.

    The tokenizer of a world is trained on the prompts of one system, so that it does not depend on the recipe for which
    the world is rendered first.

    Args:
        kind: a key of `WORLDS`.
        out: folder of the demo.
        progress: progress callback; its task is "files".
    """
    world = WORLDS[kind]
    prompts = SYSTEMS[load_recipe(WORLD_RECIPES[kind], expand=False).system].dialect.prompts.values()
    special = sorted({text for prompt in prompts for text in prompt.special})
    # A format without roles counts as one with the usual roles: another text would make another tokenizer.
    roles = [(prompt.user.before or "USER: ", prompt.assistant.before or "ASSISTANT:") for prompt in prompts]
    texts = sorted({f"{prompt.system} {user}{answer}" for prompt, (user, answer) in zip(prompts, roles, strict=True)})
    # What a format writes around the question, without the tags of media.
    placed = {text for prompt in prompts for placement in prompt.placements for text in placement.texts}
    asked = {text for prompt in prompts for text in prompt.questions}
    texts += sorted({_FIELD.sub("", text) for text in placed | asked})
    folder = out / world.folder
    told = partial(progress, "files")
    world.build(folder, texts=texts, special=special, progress=told)
    return folder
