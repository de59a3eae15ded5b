"""What a stage with low-rank adapters leaves behind: adapters, other trained weights, and where their base comes from.

A bundle is a folder with
    ``adapter_config.json``, ``adapter_model.safetensors``  of the language model, as PEFT writes and reads them;
    ``<component>/``                                        the same two files of any other adapted component;
    ``other_weights.safetensors``                           what was trained fully beside them, under our names;
    ``bundle.json``                                         the base: a whole checkpoint, or the recipe's own parts;
    ``base_sample.safetensors``                             64 values of every frozen tensor of the base;
    ``config.json``, the processor's files, ``recipe.yaml`` as every result has them.
Reading one gives the merged model.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from vidtune.checkpoints.build import build_model
from vidtune.checkpoints.checkpoints import OURS, Dtypes, LoadReport, holds_video_lm, load_checkpoint
from vidtune.checkpoints.files.hub import locate
from vidtune.checkpoints.files.tensors import read_state
from vidtune.checkpoints.formats import KeyMap
from vidtune.checkpoints.lora.adapters import Adapter, merge, read_adapter, write_adapter
from vidtune.errors import UserError
from vidtune.models.video_lm import VideoLM
from vidtune.recipe.types import Recipe

MANIFEST = "bundle.json"
OTHERS = "other_weights.safetensors"
SAMPLE = "base_sample.safetensors"
SAMPLE_SIZE = 64
LANGUAGE_MODEL = "language_model"


class Base(BaseModel):
    """The model a stage starts from, so that it can be built again.

    Args:
        parts: the recipe's own parts, which :func:`build_model` makes a model of; or
        checkpoint: folder or hub id of a whole checkpoint, with
        beside: the way to it from the folder of the bundle, when both belong to one run;
        stands_on: what a checkpoint that is not whole stands on, bottom up, see :mod:`vidtune.checkpoints.stack`;
        language_model: the same in results of earlier versions, where it was one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parts: Recipe | None = None
    checkpoint: str | None = None
    beside: str | None = None
    stands_on: tuple[str, ...] = ()
    language_model: str | None = None

    @property
    def below(self) -> tuple[str, ...]:
        """What the checkpoint stands on."""
        return self.stands_on or ((self.language_model,) if self.language_model else ())

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> "Base":
        """The recipe's parts, local ones by their absolute paths."""
        left_out: dict[str, object] = {"stages": (), "benchmarks": (), "generation": {}, "features": None}
        changes = {
            name: {key: _absolute_part(spec) for key, spec in getattr(recipe, name).items()}
            for name in ("towers", "connectors")
        } | {name: _absolute_part(getattr(recipe, name)) for name in ("language_model", "tokenizer", "checkpoint")}
        changes["lora_runs"] = tuple(map(absolute, recipe.lora_runs))
        return cls(parts=recipe.model_copy(update={**left_out, **changes}))

    def load(self, dtype: Dtypes, tokenizer: str | None = None) -> VideoLM:
        """The model on CPU.

        Args:
            tokenizer: folder or hub id, where the recipe or checkpoint names none that is still there.
        """
        if self.parts is not None:
            named = {"tokenizer": tokenizer} if tokenizer else {}
            return build_model(self.parts.model_copy(update=named), dtype)
        assert self.checkpoint is not None
        return load_checkpoint(self.checkpoint, base=self.below, tokenizer=tokenizer, dtype=dtype).model

    def found(self, bundle: Path, given: str | None) -> "Base":
        """The base where it lies now.

        Args:
            given: what the user names with ``--model-base``: a whole checkpoint, or the language model for a base that
                is made of parts.

        Raises:
            UserError: it is not where the bundle says; tells what to do.
        """
        if given is not None and self.parts is not None and not holds_video_lm(locate(given)):
            return Base(parts=self.parts.model_copy(update={"language_model": given}))
        base = self
        if given is not None:
            base = Base(checkpoint=given, stands_on=self.below)
        elif self.beside is not None and (bundle / self.beside).is_dir():
            base = Base(checkpoint=str(bundle / self.beside), stands_on=self.below)
        for what, place in base._places().items():
            try:
                locate(place)
            except UserError:
                raise UserError(
                    f"{bundle}: the {what} that its adapters stand on is not at {place}; give its place with "
                    f"--model-base, or mend base in {bundle / MANIFEST}"
                ) from None
        return base

    def _places(self) -> dict[str, str]:
        if self.parts is None:
            return {"checkpoint": str(self.checkpoint), **{f"base {place}": place for place in self.below}}
        named = {"checkpoint": self.parts.checkpoint, "language model": self.parts.language_model}
        named |= {f"LoRA run {place}": place for place in self.parts.lora_runs}
        named |= {f"tower {name}": spec for name, spec in self.parts.towers.items()}
        named |= {f"connector {name}": spec for name, spec in self.parts.connectors.items()}
        return {what: place for what, place in named.items() if isinstance(place, str)}


class Manifest(BaseModel):
    """``bundle.json``.

    Args:
        base: what the adapters stand on.
        adapters: component -> its folder inside the bundle.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: Base
    adapters: dict[str, str]


def is_bundle(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def write_bundle(
    folder: Path, base: Base, sample: dict[str, Tensor], adapters: dict[str, Adapter], others: dict[str, Tensor]
) -> None:
    """Write adapters, other trained weights and what they stand on; config, processor and recipe are the caller's.

    Args:
        sample: :func:`weight_sample` of the base.
        adapters: by component.
        others: weights trained fully, under the names of :meth:`VideoLM.state_dict`.
    """
    folders = {component: "." if component == LANGUAGE_MODEL else component for component in adapters}
    for component, adapter in adapters.items():
        write_adapter(adapter, folder / folders[component])
    save_file({name: tensor.contiguous() for name, tensor in others.items()}, folder / OTHERS)
    save_file({name: values for name, values in sample.items() if name not in others}, folder / SAMPLE)
    manifest = Manifest(base=base, adapters=folders)
    text = manifest.model_dump_json(indent=1, by_alias=True, exclude_defaults=True)
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Raises UserError: a broken ``bundle.json``, or one of a newer version of this package."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_text(encoding="utf-8"))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(key) for key in problem["loc"])
        raise UserError(f"{folder / MANIFEST}: {where}: {problem['msg']}") from None


def bundle_adapters(folder: Path) -> dict[str, Adapter]:
    """The adapters of a bundle by component."""
    return {component: read_adapter(folder / place) for component, place in read_manifest(folder).adapters.items()}


@torch.no_grad()
def load_bundle(folder: Path, given_base: str | None = None, dtype: Dtypes = None) -> tuple[VideoLM, LoadReport]:
    """The merged model of a bundle.

    Args:
        given_base: where the base lies when it has moved, see :meth:`Base.found`.

    Raises:
        UserError: the base is not there, or is not the one the adapters were trained on.
    """
    base = read_manifest(folder).base.found(folder, given_base)
    model = base.load(dtype, tokenizer=str(folder))
    parameters = dict(model.named_parameters())
    different = first_difference(read_state(folder / SAMPLE), parameters)
    if different is not None:
        raise UserError(
            f"{folder}: its adapters were trained on another model than {base.checkpoint or 'its parts make now'}: "
            f"{different} differs; give the right one with --model-base"
        )
    others = read_state(folder / OTHERS)
    report = LoadReport(OURS, len(others))
    for name, tensor in others.items():
        if name not in parameters or parameters[name].shape != tensor.shape:
            raise UserError(f"{folder / OTHERS}: the base has no weight {name!r} of shape {tuple(tensor.shape)}")
        parameters[name].copy_(tensor)
    for component, adapter in bundle_adapters(folder).items():
        merge(model, adapter, KeyMap((("", component + "."),)), folder)
        report.loaded += 2 * len(adapter.factors)
    return model, report


def weight_sample(model: nn.Module) -> dict[str, Tensor]:
    """64 evenly spaced values of every parameter (all, where there are fewer), by name."""
    return {name: _sample(parameter) for name, parameter in model.named_parameters()}


def first_difference(sample: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str | None:
    """The first tensor that differs from a sample by more than rounding; None when all agree.

    Rounding is that of the coarser dtype, relative to a tensor's typical value: 1e-5 in float32, 0.8 % in bfloat16.
    Models that differ by less, or in values outside the sample alone, are not told apart.
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
    """A local path made absolute; a hub id as it is."""
    path = Path(place).expanduser()
    return str(path.resolve()) if path.exists() else place


def _absolute_part(spec: Any) -> Any:
    return absolute(spec) if isinstance(spec, str) else spec
