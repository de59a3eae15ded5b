"""The trained parameters of a stage: the globs over components become optimizer groups with rates and precision.

A component is a named part of the model, see :meth:`VideoLM.components`.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from vidtune.checkpoints.lora.adapter_files import is_adapter_weight
from vidtune.checkpoints.lora.injection import has_adapters
from vidtune.errors import RecipeError
from vidtune.models.batch_norm_statistics import with_statistics
from vidtune.models.config import VideoLMConfig
from vidtune.models.text_alignment.contrast import Contrast, Temperature, contrast_components, pooled_sizes
from vidtune.models.video_lm import VideoLM
from vidtune.recipe import types
from vidtune.recipe.types import Stage, Train
from vidtune.recipe.values import component_matches
from vidtune.spelling import suggestion


def component_names(config: VideoLMConfig, stage: Stage) -> list[str]:
    """Returns the names of all components that a stage could train, see :class:`Contrast` for its own."""
    if stage.objective != "contrastive":
        return config.component_names
    settings = stage.contrast or types.Contrast()
    return [*config.component_names, *contrast_components(pooled_sizes(config, settings.mean_streams))]


def select_components(names: list[str], train: Mapping[str, Train], stage: str) -> dict[str, Train]:
    """Returns the training settings of each trained component, in the order of ``names``.

    Args:
        names: names of all components of the model.
        train: training settings by glob, from the stage.
        stage: name of the stage, for error messages.

    Raises:
        UserError: a glob that matches nothing (the message names the nearest), or two globs for one component.
    """
    chosen: dict[str, Train] = {}
    claimed: dict[str, str] = {}
    for glob, how in train.items():
        matches = [name for name in names if component_matches(glob, name)]
        if not matches:
            raise RecipeError(f"stage {stage!r}: train names no component by {glob!r}; {suggestion(glob, names)}")
        for name in matches:
            if name in claimed:
                raise RecipeError(
                    f"stage {stage!r}: train names {name!r} twice, by {claimed[name]!r} and {glob!r}; keep one"
                )
            claimed[name], chosen[name] = glob, how
    return {name: chosen[name] for name in names if name in chosen}


def prepare_components(model: VideoLM, trained: Mapping[str, Train], frozen_dtype: torch.dtype) -> None:
    """Freeze all but the trained components. Trained weights become float32, frozen ones ``frozen_dtype``.

    In a trained component with low-rank adapters only the adapters train. Frozen towers and connectors are put into
    eval mode. The language model always stays in train mode: gradients run through it even if it is frozen, and
    transformers checkpoints activations in train mode only. Buffers keep their precision, because rotary embeddings
    need it; so do weights that are held in 8 or 4 bits. A weight that two components share belongs to the first one.
    """
    model.requires_grad_(False)
    seen: set[int] = set()
    for name, part in model.components().items():
        for layer in with_statistics(part):
            layer.frozen = name in trained and trained[name].frozen_statistics
        part.train(name in trained or name == "language_model")
        adapted = has_adapters(part)
        for key, parameter in part.named_parameters():
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            trains = name in trained and (not adapted or is_adapter_weight(key))
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(torch.float32 if trains else frozen_dtype)
            parameter.requires_grad_(trains)


def prepare_contrast(contrast: Contrast, trained: Collection[str], frozen_dtype: torch.dtype) -> None:
    """Freeze all but the trained parts of a contrast. Trained weights, and the temperature, are float32."""
    for name, part in contrast.components().items():
        part.train(name in trained).requires_grad_(name in trained)
        keeps = name in trained or isinstance(part, Temperature)
        part.to(torch.float32 if keeps else frozen_dtype)


def parameter_groups(
    model: VideoLM,
    trained: Mapping[str, Train],
    weight_decay: float,
    optimizer: str = "adamw",
    contrast: Contrast | None = None,
) -> list[dict[str, Any]]:
    """Returns the optimizer groups: per trained component one, and one without weight decay for its biases and norms.

    Each group has ``component`` and ``peak`` (the learning rate before the schedule). With the optimizer "muon" the
    matrices that it turns are a group of their own, with ``turned`` True; so are embeddings with a rate of their own. A
    weight that two components share belongs to the first one.
    """
    parts = model.components() | ({} if contrast is None else contrast.components())
    groups: list[dict[str, Any]] = []
    seen: set[int] = set()
    for name, how in trained.items():
        fresh = [p for p in parts[name].parameters() if p.requires_grad and id(p) not in seen]
        seen |= {id(p) for p in fresh}
        turned = _inner_matrices(parts[name]) if optimizer == "muon" else set()
        exempt = _biases_and_norms(parts[name]) - turned
        peak, embedding_peak = how.learning_rate, how.embedding_learning_rate or how.learning_rate
        embeddings = _embeddings(parts[name]) if how.embedding_learning_rate else set()
        for rate, decay, is_turned, members in (
            (peak, weight_decay, True, [p for p in fresh if id(p) in turned]),
            (peak, weight_decay, False, [p for p in fresh if id(p) not in exempt | turned | embeddings]),
            (embedding_peak, weight_decay, False, [p for p in fresh if id(p) in embeddings]),
            (peak, 0.0, False, [p for p in fresh if id(p) in exempt]),
        ):
            if members:
                group = {"params": members, "lr": rate, "peak": rate, "weight_decay": decay, "component": name}
                groups.append({**group, "turned": is_turned} if optimizer == "muon" else group)
    return groups


def _biases_and_norms(part: nn.Module) -> set[int]:
    return {
        id(parameter)
        for owner in part.modules()
        for name, parameter in owner.named_parameters(recurse=False)
        if "bias" in name or "Norm" in type(owner).__name__ or isinstance(owner, Temperature)
    }


def _embeddings(language_model: Any) -> set[int]:
    """Ids of the weights of the token embeddings and of the output head."""
    layers = (language_model.get_input_embeddings(), language_model.get_output_embeddings())
    return {id(layer.weight) for layer in layers if layer is not None}


def _inner_matrices(part: nn.Module) -> set[int]:
    """Ids of the weights of linear layers between others: not those of an output head."""
    get_head = getattr(part, "get_output_embeddings", None)
    head = None if get_head is None else get_head()
    return {
        id(parameter)
        for owner in part.modules()
        for name, parameter in owner.named_parameters(recurse=False)
        if isinstance(owner, nn.Linear) and owner is not head and name == "weight"
    }
