"""Towers of a model that run by other settings with the weights that they have, such as without attention over time.

The model itself is not touched: the changed one is a view that shares all weights, so that several engines may run one
model by different rules.
"""

from collections.abc import Mapping
from copy import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vidtune.errors import UserError
from vidtune.models.config import VideoLMConfig
from vidtune.models.initial import without_values
from vidtune.models.language_model.rope import sharing_view
from vidtune.spelling import suggestion

if TYPE_CHECKING:
    from vidtune.models.video_lm import VideoLM

Settings = Mapping[str, Mapping[str, Any]]
"""Name of a tower -> settings of its config that are changed."""


def require_settings(config: VideoLMConfig, towers: Settings) -> VideoLMConfig:
    """Returns a copy of a config with changed towers.

    Raises:
        UserError: no such tower or setting, a value of another type, or settings that contradict each other.
    """
    found = copy(config)
    found.towers = {name: dict(spec) for name, spec in config.towers.items()}
    for name, changes in towers.items():
        if name not in config.towers:
            raise UserError(f"towers: the model has no tower {name!r}; {suggestion(name, config.towers)}")
        if "type" in changes or "absent" in changes:
            raise UserError(f"towers.{name}: a run changes settings of a tower, not which tower it is")
        found.towers[name].update(changes)
        try:
            found.tower(name)
        except (TypeError, ValueError) as error:
            raise UserError(f"{error}; change settings of the tower that there is") from None
    return found


def with_towers(model: "VideoLM", towers: Settings) -> "VideoLM":
    """A model that shares all weights of a model and runs some of its towers by other settings.

    Args:
        towers: see `Settings`. Weights that the changed tower does not have are not used. Empty: the model itself.

    Raises:
        UserError: see `require_settings`; or the changed tower needs weights that are not there.
    """
    if not towers:
        return model
    view = sharing_view(model)
    view.config = require_settings(model.config, towers)
    view.towers = nn.ModuleDict({**model.towers})
    view._changed_towers = {}
    for name in towers:
        if name not in model.config.absent_towers:
            view.towers[name] = rebuilt(name, view.config, model.towers[name])
    return view


@torch.inference_mode(False)
@torch.no_grad()
def rebuilt(name: str, config: VideoLMConfig, tower: nn.Module) -> nn.Module:
    """A frozen tower of this config with the weights of another one, which are shared where nothing is resized."""
    with without_values():
        found = config.build_tower(name)
    settings, state = config.tower(name), tower.state_dict()
    if hasattr(settings, "fitted"):
        state = settings.fitted(state)
    wanted = {key: tensor.shape for key, tensor in found.state_dict().items()}
    if unfit := next((key for key, shape in wanted.items() if key not in state or state[key].shape != shape), None):
        raise UserError(f"towers.{name}: changed so, it needs weights that the model does not have, such as {unfit}")
    found.load_state_dict({key: state[key] for key in wanted}, assign=True)
    for key, buffer in tower.named_buffers():  # those that a state leaves out
        module, _, last = key.rpartition(".")
        if key not in wanted and last in dict(found.get_submodule(module).named_buffers(recurse=False)):
            found.get_submodule(module).register_buffer(last, buffer, persistent=False)
    return found.train(tower.training).requires_grad_(False)
