"""The model a stage trains: loaded from what it starts from, adapted, frozen and cast as the stage says."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from vidtune.checkpoints.build import build_base
from vidtune.checkpoints.lora.added_rows import split_rows
from vidtune.checkpoints.lora.bundle import LANGUAGE_MODEL, Base, absolute, weight_sample
from vidtune.checkpoints.lora.injection import add_adapters, target_layers
from vidtune.checkpoints.recognise import parts_below, recognise
from vidtune.checkpoints.teachers import alignment_sizes
from vidtune.errors import RecipeError
from vidtune.models.batch_norm_statistics import with_statistics
from vidtune.models.config import ADDED_TOKENS, VideoLMConfig
from vidtune.models.language_model.quantization import quantize_linear_layers, require_bitsandbytes
from vidtune.models.resizing import resize, with_sizes
from vidtune.models.video_lm import VideoLM
from vidtune.planning.randomness import random_seed
from vidtune.recipe.types import Recipe, Stage, Train
from vidtune.recipe.values import component_matches
from vidtune.training.setup.parameters import component_names, prepare_components, select_components
from vidtune.training.setup.run_folder import FINAL


@dataclass
class StageModel:
    """A stage's model, and what its result has to tell about it.

    Args:
        model: on CPU, frozen and cast as the stage wants.
        trained: how each trained component trains.
        base: where the model came from, when the result is a bundle that stands on it; else None.
        base_sample: :func:`weight_sample` of the base.
        adapted: names of the adapted layers, as a PEFT config has them, by component.
    """

    model: VideoLM
    trained: dict[str, Train]
    base: Base | None = None
    base_sample: dict[str, Tensor] = field(default_factory=dict)
    adapted: dict[str, list[str]] = field(default_factory=dict)


def load_stage_model(recipe: Recipe, number: int, out: Path) -> StageModel:
    """Build the model of stage ``number``; what is wrong with the training of later stages is found as well.

    Raises:
        UserError: weights that are not there; a component or layer that does not exist.
    """
    stage = recipe.stages[number]
    base = starting_base(recipe, number, out)
    model = build_base(base, stage_dtypes(stage), recipe.tokenizer, recipe.system)
    require_named_towers(recipe, model.config, base.checkpoint or recipe.checkpoint)
    _take_sizes(model, stage)
    model.add_alignments(alignment_sizes(recipe, model.config))
    for later in recipe.stages[number:]:
        trained_components(later, model)
    prepared = StageModel(model, trained_components(stage, model))
    if leaves_bundle(stage):
        prepared.base, prepared.base_sample = base, weight_sample(model)
    if stage.quantize:
        quantize_linear_layers(model.language_model, stage.quantize)
    if ADDED_TOKENS in prepared.trained:
        split_rows(model)
    for place, (component, part) in enumerate(model.components().items()):
        how = prepared.trained.get(component)
        if how is not None and how.lora is not None:
            seed = random_seed(recipe.seed, number, place)
            prepared.adapted[component] = add_adapters(part, how.lora, seed, _where(stage, component))
    prepare_components(model, prepared.trained, frozen_dtype(stage))
    if stage.gradient_checkpointing:
        checkpoint_activations(model)
    return prepared


def _take_sizes(model: VideoLM, stage: Stage) -> None:
    """Give the parts of a model the sizes that the stage changes.

    Raises:
        UserError: sizes that do not fit, or a stage whose result stands on a base of other sizes.
    """
    if not stage.sizes:
        return
    if leaves_bundle(stage):
        raise RecipeError(
            f"stage {stage.name!r}: sizes: its result would be an adapter on a base of other sizes; give the sizes in "
            "an earlier stage without lora and quantize"
        )
    where = sizes_of(stage)
    resize(model, with_sizes(model.config, stage.sizes, where), where)


def sizes_of(stage: Stage) -> str:
    """Returns the place of the sizes of a stage, for messages."""
    return f"stage {stage.name!r}: sizes"


def starting_base(recipe: Recipe, number: int, out: Path) -> Base:
    """What the stage starts from: the recipe's parts, an earlier stage's result, or a checkpoint."""
    stage = recipe.stages[number]
    earlier = [s.name for s in recipe.stages[:number]]
    source = stage.from_ or (earlier[-1] if earlier else None)
    if source is None:
        return Base.of_recipe(recipe)
    if source in earlier:
        final = out / source / FINAL
        beside = os.path.relpath(final, out / stage.name / FINAL)
        return Base(checkpoint=str(final.resolve()), beside=beside)
    return Base(checkpoint=absolute(source), stands_on=tuple(map(absolute, stands_on(recipe, source))))


def stands_on(recipe: Recipe, source: str) -> tuple[str, ...]:
    """What a checkpoint that a stage starts from stands on, of the recipe's own parts; nothing for a whole one."""
    if not isinstance(recipe.language_model, str):
        return ()
    kind = recognise(source, system=recipe.system).kind
    return (*parts_below(recipe, kind), *(recipe.lora_runs if kind in ("run", "connectors") else ()))


def require_named_towers(recipe: Recipe, config: VideoLMConfig, source: str | None) -> None:
    """Raise UserError where a recipe names towers but starts from a checkpoint that comes without them.

    Args:
        config: of the model that the stage starts from.
        source: the checkpoint; None where the recipe's parts made the model.
    """
    ignored = {name: spec for name, spec in recipe.towers.items() if name in config.absent_towers}
    if ignored:
        options = " ".join(
            f"--tower {name}={spec if isinstance(spec, str) else 'PLACE'}" for name, spec in ignored.items()
        )
        raise RecipeError(
            f"{source}: comes without the towers that the recipe names; put them in with `vidtune convert {source} OUT "
            f"{options}`, and start from OUT"
        )


def leaves_bundle(stage: Stage) -> bool:
    """Returns whether the result of the stage is a bundle on its base: with adapters, or with a quantised base."""
    return bool(stage.quantize) or any(how.lora for how in stage.train.values())


def trained_components(stage: Stage, model: VideoLM) -> dict[str, Train]:
    """Returns the training settings of each component that the stage trains.

    Raises:
        UserError: a component, or a layer to adapt, that does not exist.
    """
    parts = model.components()
    trained = select_components(component_names(model.config, stage), stage.train, stage.name)
    for component, how in trained.items():
        if how.lora is not None:
            target_layers(parts.get(component, nn.Identity()), how.lora, _where(stage, component))
        if how.embedding_learning_rate is not None and (how.lora or component != LANGUAGE_MODEL):
            reason = "with lora no embedding trains" if how.lora else f"only {LANGUAGE_MODEL} has token embeddings"
            raise RecipeError(f"{_where(stage, component)}: embedding_learning_rate: {reason}; remove it")
        if how.frozen_statistics and not with_statistics(parts.get(component, nn.Identity())):
            reason = "the component has no batch normalisation"
            raise RecipeError(f"{_where(stage, component)}: frozen_statistics: {reason}; remove it")
    return trained


def check_quantization(stage: Stage) -> None:
    """Raise UserError if ``quantize`` contradicts other settings of the stage, or cannot be used here."""
    if stage.quantize is None:
        return
    where = f"stage {stage.name!r}: quantize: {stage.quantize}"
    whole = next((g for g, how in stage.train.items() if component_matches(g, LANGUAGE_MODEL) and not how.lora), None)
    if whole is not None:
        raise RecipeError(f"{where}: train.{whole} trains all of the language model; give it lora, or remove quantize")
    if stage.parallel == "fsdp2":
        raise RecipeError(f"{where}: weights in few bits cannot be sharded; use parallel: ddp")
    require_bitsandbytes(where)


def stage_dtypes(stage: Stage) -> Callable[[str], torch.dtype]:
    """Returns a function component -> dtype of its weights: float32 if all of them train, else the frozen dtype."""

    def dtype(component: str) -> torch.dtype:
        trains = any(component_matches(glob, component) and not how.lora for glob, how in stage.train.items())
        return torch.float32 if trains else frozen_dtype(stage)

    return dtype


def checkpoint_activations(model: VideoLM) -> None:
    """Recompute the activations of the language model in the backward pass.

    It is not set on the whole model, because that would change frozen towers too.
    """
    language_model = model.language_model
    enable: Callable[[], None] = getattr(
        language_model, "activation_checkpointing_enable", language_model.gradient_checkpointing_enable
    )
    try:
        enable()
    except ValueError as error:
        kind = model.config.text_config.model_type
        raise RecipeError(f"gradient_checkpointing: language model {kind!r}: {error}; set it to false") from None


def frozen_dtype(stage: Stage) -> torch.dtype:
    """Returns the dtype of weights that do not train."""
    return torch.bfloat16 if stage.precision == "bfloat16" else torch.float32


def _where(stage: Stage, component: str) -> str:
    return f"stage {stage.name!r}: train.{component}.lora"
