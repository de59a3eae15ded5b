"""Other sizes for parts of a model that keep their weights, such as a tower that reads larger frames."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from torch import nn

from vidtune.errors import UserError
from vidtune.models.architecture import composed_config
from vidtune.models.config import VideoLMConfig
from vidtune.models.video_lm import VideoLM
from vidtune.spelling import suggestion

GROUPS = ("towers", "connectors")


def with_sizes(config: VideoLMConfig, sizes: Mapping[str, Mapping[str, Any]], where: str) -> VideoLMConfig:
    """Return the config of a model with other sizes of some parts; the system builds it anew.

    Args:
        sizes: component, such as ``towers.video`` -> sizes that differ.
        where: place of the sizes, for messages.

    Raises:
        UserError: a tower or connector that is not there, or sizes that the system cannot use.
    """
    if not sizes:
        return config
    parts = {group: dict(getattr(config, group)) for group in GROUPS}
    known = [f"{group}.{name}" for group, named in parts.items() for name in named]
    for component, changes in sizes.items():
        if component not in known:
            raise UserError(f"{where}: no tower or connector {component!r}; {suggestion(component, known)}")
        group, _, name = component.partition(".")
        parts[group][name] = {**parts[group][name], **changes}
    built = composed_config(config.system, config.text_config, parts["towers"], parts["connectors"], where)
    changed = deepcopy(config)
    changed.towers, changed.connectors, changed.streams = built.towers, built.connectors, built.streams
    return changed


def resize(model: VideoLM, config: VideoLMConfig, where: str) -> None:
    """Build the parts of a model anew whose sizes differ in another config, with the weights that they have.

    The config of a tower may have ``fitted(state)``: weights of a tower of other sizes -> weights that fit.

    Args:
        config: a config of :func:`with_sizes`.
        where: place of the sizes, for messages.

    Raises:
        UserError: a size that changes the shape of weights.
    """
    for group in GROUPS:
        parts, specs = getattr(model, group), getattr(config, group)
        for name in [name for name, spec in specs.items() if spec != getattr(model.config, group)[name]]:
            settings = config.tower(name) if group == "towers" else config.connector(name)
            part = config.build_tower(name) if group == "towers" else settings.build()
            parts[name] = _filled(part, settings, parts[name], f"{where}: {group}.{name}")
        setattr(model.config, group, specs)
    model.config.streams = config.streams


def resized_tower(tower: nn.Module, config: VideoLMConfig, name: str, where: str) -> nn.Module:
    """Return a tower of a checkpoint as a config says, with its weights; the tower itself where it is so already."""
    settings = config.tower(name)
    if getattr(tower, "config", settings) == settings:
        return tower
    return _filled(settings.build(), settings, tower, f"{where}: towers.{name}")


def _filled(part: nn.Module, settings: Any, old: nn.Module, where: str) -> nn.Module:
    state = old.state_dict()
    if hasattr(settings, "fitted"):
        state = settings.fitted(state)
    held, needed = ({key: tuple(value.shape) for key, value in of.items()} for of in (state, part.state_dict()))
    wrong = next((key for key in {**needed, **held} if held.get(key) != needed.get(key)), None)
    if wrong is not None:
        shapes = " and not ".join(str(of.get(wrong, "absent")) for of in (needed, held))
        raise UserError(f"{where}: weight {wrong} would be {shapes}; only sizes that keep all weights can change")
    part.load_state_dict(state, assign=True)
    return part.train(old.training)
