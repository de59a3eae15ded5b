"""Bundle: the result of a stage with low-rank adapters: adapters, other trained weights, and what they stand on.

A bundle is a folder with
    ``adapter_config.json``, ``adapter_model.safetensors``  adapter of the language model, as PEFT writes and reads it;
    ``<component>/``                                        the same two files for any other adapted component;
    ``other_weights.safetensors``                           weights that were trained fully, under our names;
    ``bundle.json``                                         the base: a whole checkpoint, or the parts of a recipe;
    ``base_sample.safetensors``                             64 values of every frozen tensor of the base;
    ``config.json``, the processor's files, ``recipe.yaml`` as in every result.
Loading a bundle gives the merged model, see :mod:`vidtune.checkpoints.assembly.apply`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from vidtune.checkpoints.files.folder import CheckpointFiles
from vidtune.checkpoints.files.hub import locate
from vidtune.checkpoints.files.tensors import without_repeats
from vidtune.checkpoints.lora.adapter_files import Adapter, read_adapter, write_adapter
from vidtune.errors import UserError
from vidtune.foreign.containment import is_inside
from vidtune.recipe.mistakes import first_mistake, of_recipe
from vidtune.recipe.types import Recipe
from vidtune.registry import SYSTEMS

MANIFEST = "bundle.json"
OTHERS = "other_weights.safetensors"
SAMPLE = "base_sample.safetensors"
SAMPLE_SIZE = 64
LANGUAGE_MODEL = "language_model"


class Base(BaseModel):
    """The model from which a stage started, so that it can be built again.

    Args:
        parts: the parts of a recipe; or
        checkpoint: folder or hub id of a whole checkpoint, with
        beside: path of the checkpoint relative to the folder of the bundle, when both belong to one run;
        stands_on: what a checkpoint that is not whole stands on, bottom up;
        language_model: the same in results of earlier versions, where it was one language model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parts: Recipe | None = None
    checkpoint: str | None = None
    beside: str | None = None
    stands_on: tuple[str, ...] = ()
    language_model: str | None = None

    @property
    def below(self) -> tuple[str, ...]:
        """What the checkpoint stands on, bottom up."""
        return self.stands_on or ((self.language_model,) if self.language_model else ())

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> "Base":
        """The parts of a recipe, local ones by their absolute paths."""
        left_out: dict[str, object] = {"stages": (), "benchmarks": (), "generation": {}, "features": None}
        changes = {
            name: {key: _absolute_part(spec) for key, spec in getattr(recipe, name).items()}
            for name in ("towers", "connectors")
        } | {name: _absolute_part(getattr(recipe, name)) for name in ("language_model", "tokenizer", "checkpoint")}
        changes["lora_runs"] = tuple(map(absolute, recipe.lora_runs))
        return cls(parts=recipe.model_copy(update={**left_out, **changes}))

    def found(self, bundle: Path, given: str | None, given_is_language_model: bool = False) -> "Base":
        """Return the base at the place where it is now.

        Args:
            bundle: folder of the bundle.
            given: what the user names with ``--model-base``: a whole checkpoint, or the language model of a base that
                is made of parts.
            given_is_language_model: whether ``given`` holds a language model alone.

        Raises:
            UserError: it is not where the bundle says; tells what to do.
        """
        if given is not None and self.parts is not None and given_is_language_model:
            return Base(parts=self.parts.model_copy(update={"language_model": given}))
        base = self
        if given is not None:
            base = Base(checkpoint=given, stands_on=self.below)
        elif self.beside is not None and (bundle / self.beside).is_dir():
            base = Base(checkpoint=str(bundle / self.beside), stands_on=self.below)
        for what, place in base._places().items():
            try:
                locate(place, weights=False)
            except UserError:
                raise UserError(
                    f"{bundle}: the {what} that its adapters stand on is not at {place}; give its place with "
                    f"--model-base, or mend base in {bundle / MANIFEST}"
                ) from None
        return base

    def _places(self) -> dict[str, str]:
        if self.parts is None:
            return {"checkpoint": str(self.checkpoint), **{f"base {place}": place for place in self.below}}
        named = {"checkpoint": self.parts.starting_place, "language model": self.parts.language_model}
        named |= {f"LoRA run {place}": place for place in self.parts.lora_runs}
        named |= {f"tower {name}": spec for name, spec in self.parts.towers.items()}
        named |= {f"connector {name}": spec for name, spec in self.parts.connectors.items()}
        return {what: place for what, place in named.items() if isinstance(place, str)}


class Manifest(BaseModel):
    """Content of ``bundle.json``.

    Args:
        base: what the adapters stand on.
        adapters: component -> its folder inside the bundle.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: Base
    adapters: dict[str, str]


def write_bundle(
    folder: Path, base: Base, sample: dict[str, Tensor], adapters: dict[str, Adapter], others: dict[str, Tensor]
) -> None:
    """Write adapters, other trained weights and what they stand on. Config, processor and recipe are the caller's part.

    Args:
        base: the model from which the stage started.
        sample: :func:`weight_sample` of the base.
        adapters: adapters by component.
        others: weights trained fully, under the names of :meth:`VideoLM.state_dict`; tied ones are written once.
    """
    folders = {component: "." if component == LANGUAGE_MODEL else component for component in adapters}
    for component, adapter in adapters.items():
        write_adapter(adapter, folder / folders[component])
    save_file(without_repeats(others), folder / OTHERS)
    save_file({name: values for name, values in sample.items() if name not in others}, folder / SAMPLE)
    manifest = Manifest(base=base, adapters=folders)
    text = manifest.model_dump_json(indent=1, by_alias=True, exclude_defaults=True)
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(files: CheckpointFiles) -> Manifest:
    """Return the content of ``bundle.json``.

    Raises:
        UserError: it is broken, of a newer version of this package, or names an adapter outside the bundle.
    """
    try:
        manifest = Manifest.model_validate_json(json.dumps(files.json(MANIFEST)))
    except ValidationError as error:
        raise UserError(f"{files.path / MANIFEST}: {first_mistake(error)}") from None
    if manifest.base.parts is not None:
        with of_recipe(files.path / MANIFEST):
            SYSTEMS[manifest.base.parts.system]
    for component, place in manifest.adapters.items():
        _require_inside(files.path, component, place)
    return manifest


def _require_inside(bundle: Path, component: str, place: str) -> None:
    """Raise UserError where the folder of an adapter is not inside the folder of its bundle."""
    if Path(place).is_absolute() or not is_inside(bundle / place, bundle):
        raise UserError(
            f"{bundle / MANIFEST}: adapters.{component}: {place!r} is outside the folder of the bundle; "
            "put the adapter into the bundle"
        )


def bundle_adapters(files: CheckpointFiles, manifest: Manifest) -> dict[str, Adapter]:
    """Return the adapters of a bundle by component."""
    return {component: read_adapter(files, place) for component, place in manifest.adapters.items()}


def weight_sample(model: nn.Module) -> dict[str, Tensor]:
    """Return 64 evenly spaced values of every parameter by name; all values of one that has fewer."""
    return {name: _sample(parameter) for name, parameter in model.named_parameters()}


def first_difference(sample: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor that differs from a sample by more than rounding; None when all agree.

    Rounding is that of the coarser dtype, relative to the typical value of a tensor: 1e-5 in float32, 0.8 % in
    bfloat16. Models that differ by less, or only in values outside the sample, count as equal.
    """
    for name, values in sample.items():
        found = _sample(tensors[name]) if name in tensors else values.new_empty(0)
        if found.shape != values.shape:
            return name
        # Weights may have been cast; sums of an earlier, merged adapter may be rounded otherwise on another machine.
        rounding = max(torch.finfo(values.dtype).eps, torch.finfo(found.dtype).eps, 1e-5)
        found, values = found.float(), values.float()
        scale = torch.maximum(values.abs(), values.square().mean().sqrt())
        if not bool(((found - values).abs() <= rounding * scale).all()):
            return name
    return None


def _sample(parameter: Tensor) -> Tensor:
    flat = parameter.detach().flatten()
    count = min(len(flat), SAMPLE_SIZE)
    places = torch.arange(count, device=flat.device) * (len(flat) - 1) // max(count - 1, 1)
    return flat[places].cpu()


def absolute(place: str) -> str:
    """Return a local path as an absolute one, and a hub id unchanged."""
    path = Path(place).expanduser()
    return str(path.resolve()) if path.exists() else place


def _absolute_part(spec: Any) -> Any:
    return absolute(spec) if isinstance(spec, str) else spec
