"""Explain a checkpoint: the steps in which its model is put together, and what each fills. No weight is read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from vidtune.checkpoints.assembly.apply import key_map, require_bottom, require_some
from vidtune.checkpoints.assembly.composition import config_of, unreadable_config
from vidtune.checkpoints.lora.adapter_files import ADAPTER_NAMES, official_name
from vidtune.checkpoints.lora.added_rows import weights_with_rows
from vidtune.checkpoints.lora.bundle import LANGUAGE_MODEL, OTHERS
from vidtune.checkpoints.publication import CONFIG_ERRORS
from vidtune.checkpoints.report import OURS, LoadReport, rename
from vidtune.checkpoints.source import Source
from vidtune.errors import UserError
from vidtune.models.config import ADDED_TOKENS, VideoLMConfig
from vidtune.models.initial import without_values
from vidtune.models.language_model.head import tied_names
from vidtune.models.video_lm import VideoLM

Shape = tuple[int, ...]
_TITLES = {
    "native": "base",
    "published": "base",
    "language_model": "base",
    "delta": "difference",
    "run": "LoRA run",
}


@dataclass(frozen=True)
class Step:
    """One step of putting a model together.

    Args:
        what: kind of what is put in: base, difference, tower, connectors, LoRA run, bundle.
        place: folder, file or hub id.
        format: its format; of a language model the model_type.
        keys: number of tensors that it gives.
        adapted: number of tensors to which it adds low-rank updates.
        fills: components that it fills or changes.
    """

    what: str
    place: str
    format: str
    keys: int
    adapted: int
    fills: tuple[str, ...]


@dataclass(frozen=True)
class Assembly:
    """The steps in which a model is put together, in order; of two that fill the same, the later one wins.

    Args:
        drawn: components that no file fills; they start from random weights.
        absent: towers without which the model comes.
    """

    steps: tuple[Step, ...]
    drawn: tuple[str, ...]
    absent: tuple[str, ...]

    def __str__(self) -> str:
        rows = [
            (f"{number}.", step.what, step.format, _counted(step), ", ".join(step.fills), step.place)
            for number, step in enumerate(self.steps, start=1)
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines += [f"random weights: {', '.join(self.drawn)}"] if self.drawn else []
        lines += [f"absent: {', '.join(self.absent)}"] if self.absent else []
        return "\n".join(lines)


def _counted(step: Step) -> str:
    return f"{step.keys} keys" + (f", {step.adapted} adapted" if step.adapted else "")


def explain(source: Source) -> Assembly:
    """Return the steps in which the model of a source is put together.

    Raises:
        UserError: keys that have no place or are missing, shapes that do not fit, sizes that contradict each other, or
            nothing to stand on.
    """
    require_bottom(source)
    config = config_of(source)
    given = [(one, _given(one)) for one in source.steps()]
    _require_fit(source, config, given)
    steps = tuple(_step(one, list(shapes)) for one, shapes in given)
    wanted = [LANGUAGE_MODEL, *(f"connectors.{name}" for name in config.connectors)]
    wanted += [f"towers.{name}" for name in config.towers if name not in config.absent_towers]
    filled = {component for step in steps for component in step.fills}
    return Assembly(steps, tuple(name for name in wanted if name not in filled), tuple(config.absent_towers))


def _require_fit(source: Source, config: VideoLMConfig, given: list[tuple[Source, Mapping[str, Shape]]]) -> None:
    """Raise UserError for a file that loading would refuse by its names and shapes. Matrices with a row for each token
    may still grow, and are not compared where they do."""
    try:
        with without_values():
            model = VideoLM(config)
    except CONFIG_ERRORS as error:
        raise unreadable_config(source.path, error) from None
    grows = config.added_tokens or any(one.kind in ("delta", "run") for one, _ in given)
    growing = set(weights_with_rows(config)) if grows else set()
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in growing}
    tied = {name for names in tied_names(model) for name in names}
    towers = source.in_order()[0].towers
    replaced = tuple(tower.component + "." for tower in towers)
    for one, shapes in given:
        own = any(one is tower for tower in towers)
        if one.kind in ("delta", "run", "bundle") or (not own and f"{one.component}." in replaced):
            continue
        for name, shape in shapes.items():
            if not own and name.startswith(replaced):
                continue
            if wanted.get(name, shape) != shape:
                raise UserError(f"{one.place}: {name}: shape {shape} in the file, {wanted[name]} by its config")
        if one.component:
            require_some(shapes, one)
            inside = (name for name in wanted if name.startswith(one.component + ".") and name not in tied)
            LoadReport(one.component, missing=[name for name in inside if name not in shapes]).refuse_gaps(one.path)


def _step(source: Source, given: list[str]) -> Step:
    fills = {_component(name): None for name in given}
    adapted = 0
    for component, names in _adapters(source).items():
        fills[component] = None
        adapted += sum(".lora_A." in name for name in names)
    format = source.format.name if source.format else source.config.get("model_type") or source.path.suffix or OURS
    return Step(
        _TITLES.get(source.kind, source.kind), source.place, str(format), len(given), adapted, tuple(sorted(fills))
    )


def _given(source: Source) -> Mapping[str, Shape]:
    """Shapes of the tensors that a source gives, by our names; found by renaming tensors without values."""
    if source.manifest is not None:
        assert source.files is not None
        return source.files.tensors((OTHERS,)).shapes
    if source.kind == "native":
        return source.shapes
    report = LoadReport(source.format.name if source.format else source.component)
    empty = {official_name(name): torch.empty(shape, device="meta") for name, shape in source.shapes.items()}
    found = rename(empty, key_map(source), report)
    report.refuse_gaps(source.path)
    wanted = (source.component + ".", ADDED_TOKENS + ".") if source.component else ("",)
    return {name: tuple(tensor.shape) for name, tensor in found.items() if name.startswith(wanted)}


def _adapters(source: Source) -> dict[str, Iterable[str]]:
    """Names of the tensors of each adapter, by the component that it changes."""
    if source.files is None:
        return {}
    if source.manifest is not None:
        places = source.manifest.adapters.items()
        return {component: source.files.tensors(ADAPTER_NAMES, place).shapes for component, place in places}
    return {LANGUAGE_MODEL: source.files.tensors(ADAPTER_NAMES).shapes} if source.kind == "run" else {}


def _component(name: str) -> str:
    """The component to which a weight of ours belongs."""
    parts = name.split(".")
    if name.startswith(ADDED_TOKENS + "."):
        return ADDED_TOKENS
    return parts[0] if parts[0] == LANGUAGE_MODEL else ".".join(parts[:2])
