"""Towers that are named on the command line, with the preprocessing of their system."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import LlamaConfig

from vidtune.checkpoints.build import build_config, tower_of_recipe
from vidtune.checkpoints.fit_processor import preprocessing_of
from vidtune.errors import UserError
from vidtune.features.cache import TORCH_DTYPES, FeatureCache
from vidtune.features.collection import stream_spec
from vidtune.features.tower_stream import Extraction, TowerStream
from vidtune.media.kept.identity import MediaIdentities
from vidtune.media.preprocessing.kinds import random_setting
from vidtune.models.config import VideoLMConfig
from vidtune.recipe.types import Recipe
from vidtune.registry import SYSTEMS
from vidtune.spelling import suggestion

if TYPE_CHECKING:
    from vidtune.systems.base import System


def frozen(tower: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Returns the tower as a stage that does not train it uses it: frozen, in eval mode."""
    tower.requires_grad_(False)
    for parameter in tower.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    return tower.eval().to(device)


def named_extraction(names: Sequence[str], store: Path, dtype: str, device: torch.device) -> Extraction:
    """Returns the extraction of ``SYSTEM:STREAM=WEIGHTS`` arguments.

    Args:
        names: the arguments; without ``=WEIGHTS``, the weights are those that the system names.
        store: folder of the store.
        dtype: dtype of the towers and their features.
        device: device of the towers.

    Raises:
        UserError: unknown system or stream, streams of two systems, weights that are missing or do not fit, random
            preprocessing.
    """
    system, wanted = _parsed(names)
    # Sizes of a language model are needed for the connectors, which are not built.
    text_config = LlamaConfig(hidden_size=4096)
    published = system.architecture.build_config(text_config, {}, {})
    towers = _places_of_towers(system, wanted, published)
    recipe = Recipe.model_validate({"system": system.name, "language_model": "none", "towers": towers})
    config = build_config(recipe, text_config)
    preprocessing, identities = preprocessing_of(config), MediaIdentities()
    built = {name: frozen(tower_of_recipe(recipe, name, config), TORCH_DTYPES[dtype], device) for name in towers}
    streams = {}
    for stream in wanted:
        tower = published.streams[stream]["tower"]
        origin = {"system": system.name, "from": towers[tower]}
        spec = stream_spec(config, stream, built[tower], preprocessing[stream], dtype, origin)
        cache = FeatureCache(store, spec, identities)
        streams[stream] = TowerStream.of(config, stream, built[tower], preprocessing[stream], cache)
    return Extraction(system.title, streams)


def _parsed(names: Sequence[str]) -> tuple["System", dict[str, str | None]]:
    """The one system of all arguments, and the weights that they name for its streams."""
    wanted: dict[str, str | None] = {}
    systems = []
    for name in names:
        what, _, weights = name.partition("=")
        system_name, _, stream = what.partition(":")
        if not stream:
            raise UserError(f"--tower {name}: write SYSTEM:STREAM or SYSTEM:STREAM=WEIGHTS")
        systems.append(system_name)
        wanted[stream] = weights or None
    if len(set(systems)) > 1:
        raise UserError(f"--tower: of one system at a time, not {', '.join(dict.fromkeys(systems))}")
    return SYSTEMS[systems[0]], wanted


def _places_of_towers(system: "System", wanted: Mapping[str, str | None], published: VideoLMConfig) -> dict[str, str]:
    """Tower -> where its weights lie, for the towers of the streams, whose preprocessing may not be random."""
    streams, steps = published.streams, preprocessing_of(published)
    towers: dict[str, str] = {}
    for stream, given in wanted.items():
        if stream not in streams:
            raise UserError(f"system {system.name} has no stream {stream!r}; {suggestion(stream, list(streams))}")
        if (setting := random_setting(steps[stream])) is not None:
            raise UserError(
                f"--tower {system.name}:{stream}: its preprocessing is random ({setting}): no features of it are stored"
            )
        tower = streams[stream]["tower"]
        found = given or towers.get(tower) or system.publication.named_parts({}).tower_places.get(tower)
        if found is None:
            raise UserError(f"--tower {system.name}:{stream}: say where its weights lie: {system.name}:{stream}=FOLDER")
        towers[tower] = found
    return towers
