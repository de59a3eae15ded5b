"""Source: what the place of a checkpoint turned out to be, before any weight is read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vidtune.checkpoints.files.folder import CheckpointFiles
from vidtune.checkpoints.files.tensors import SINGLE_NAMES, Tensors
from vidtune.checkpoints.lora.bundle import Manifest
from vidtune.checkpoints.publication import CheckpointFormat, JsonDict, KeyMap, TowerFile
from vidtune.checkpoints.report import OURS
from vidtune.errors import UserError
from vidtune.recipe.types import Recipe
from vidtune.registry import SYSTEMS
from vidtune.spelling import suggestion

Kind = Literal["native", "published", "bundle", "delta", "run", "connectors", "language_model", "tower", "parts"]
"""What a source is:

- ``native``: a whole model that this package wrote;
- ``published``: a whole model in a published format;
- ``bundle``: the LoRA result of a stage of ours; stands on the model that the stage started from;
- ``delta``: a published language model as differences to a base, which may hold connectors too; stands on that base;
- ``run``: a published LoRA run; stands on a model, or on a language model, connectors and earlier runs;
- ``connectors``: connectors alone; stand on a language model or a whole model;
- ``language_model``, ``tower``: one part of a model;
- ``parts``: a model that a recipe, or the config of connectors, puts together from parts.
"""
NEEDS_BASE: tuple[Kind, ...] = ("delta", "run", "connectors")
"""Kinds whose user has to name what they stand on."""
WHOLE: tuple[Kind, ...] = ("native", "published")
"""Kinds of whole models."""
LAYERS: tuple[Kind, ...] = ("bundle", *NEEDS_BASE)
"""Kinds that change a model on which they stand."""


@dataclass(frozen=True)
class Source:
    """What a place turned out to be.

    Args:
        kind: see :data:`Kind`.
        files: its files; ``parts`` have none.
        system: name of the published system; None for a language model.
        format: published format; None for what this package wrote, and for parts.
        component: name of the component that a part fills, such as ``towers.video``; empty for anything else.
        names: names of its file of weights in a folder.
        children: what it stands on, bottom up; of ``parts``, the parts whose weights are read from files.
        towers: of a whole model or parts: towers that the user named to complete it, or to replace its own.
        manifest: of a bundle.
        recipe: of ``parts``: the recipe that says which parts these are.
        seed: of the model of a recipe: random seed of weights that no file holds; None: the state of torch's generator.
        may_draw: of ``parts``: whether a LoRA run may stand on connectors that no file holds.
        notes: warnings for the report of loading, such as unknown settings in its files that are switched off.
    """

    kind: Kind
    files: CheckpointFiles | None = field(default=None, repr=False)
    system: str | None = None
    format: CheckpointFormat | None = field(default=None, repr=False)
    component: str = ""
    names: tuple[str, ...] = SINGLE_NAMES
    children: tuple["Source", ...] = ()
    towers: tuple["Source", ...] = ()
    manifest: Manifest | None = field(default=None, repr=False)
    recipe: Recipe | None = field(default=None, repr=False)
    seed: int | None = None
    may_draw: bool = True
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Local folder or file; for error messages of ``parts`` the word "recipe"."""
        return Path("recipe") if self.files is None else self.files.path

    @property
    def place(self) -> str:
        """The place as it was named: a local path or a hub id."""
        return "recipe" if self.files is None else self.files.place

    @property
    def config(self) -> JsonDict:
        """The content of config.json; empty without one. Parsed once."""
        return {} if self.files is None else self.files.config

    @property
    def has_tokenizer(self) -> bool:
        """Whether the files of a tokenizer are among its own."""
        return self.files is not None and self.files.has_tokenizer

    @property
    def weights(self) -> Tensors:
        """Its own tensors by the names that they have in the file; a value is read when it is asked for."""
        return Tensors(()) if self.files is None else self.files.tensors(self.names)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of its own tensors by name."""
        return self.weights.shapes

    @property
    def is_of_whole_model(self) -> bool:
        """Whether the place is a whole model of ours, of a part too that is read from it."""
        return self.config.get("model_type") == OURS

    @property
    def tower_file(self) -> TowerFile:
        """How the tower that the place holds is stored: in a whole model of ours, or as its system publishes it.

        Raises UserError where the system, or the model, has no such tower.
        """
        name = self.component.removeprefix("towers.")
        if not self.is_of_whole_model:
            return SYSTEMS[str(self.system)].publication.tower(name)
        towers = self.config.get("towers") or {}
        if name not in towers or towers[name].get("absent"):
            held = [one for one, spec in towers.items() if not spec.get("absent")]
            raise UserError(f"{self.path}: holds no tower {name!r}; {suggestion(name, held)}")
        sizes = {key: value for key, value in towers[name].items() if key != "type"}
        others = rf"(?!{re.escape(self.component)}\.)"
        return TowerFile(KeyMap(((f"{self.component}.", ""),), ignored=(others,)), lambda config, shapes: sizes)

    @property
    def is_layer(self) -> bool:
        """Whether it changes a model on which it stands, and is no whole model by itself."""
        return self.kind in LAYERS

    def in_order(self) -> list["Source"]:
        """Return what makes the model, bottom up: a whole model or parts, then what is put on it, this one last."""
        ordered: list[Source] = []
        source = self
        while source.is_layer and source.children:
            ordered = [*source.children[1:], source, *ordered]
            source = source.children[0]
        return [source, *ordered]

    def steps(self) -> list["Source"]:
        """Return all files that make the model, in their order.

        They are: a language model or a whole model, differences to it, towers, connectors, LoRA runs and bundles.
        """
        bottom, *layers = self.in_order()
        deltas = [layer for layer in layers if layer.kind == "delta"]
        base, parts = [bottom], list(bottom.towers)
        if bottom.kind == "parts":
            base = [part for part in bottom.children if part.kind == "language_model"]
            parts = [part for part in (*bottom.towers, *bottom.children) if part.kind == "tower"]
            parts += [part for part in bottom.children if part.kind == "connectors"]
        return [*base, *deltas, *parts, *(layer for layer in layers if layer.kind != "delta")]

    def part(self, component: str) -> "Source | None":
        """The part that fills a component; None where no file does."""
        return next((child for child in self.children if child.component == component), None)

    def close(self) -> None:
        """Give all open files back, of what it stands on too. What is asked for later is opened again."""
        for source in self.steps():
            if source.files is not None:
                source.files.close()
