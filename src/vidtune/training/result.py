"""Writes the result of a finished stage: a whole checkpoint, or a bundle if adapters were trained."""

from pathlib import Path

from torch import Tensor
from torch.distributed.tensor import DTensor

from vidtune.checkpoints.files.quiet import without_progress_bar
from vidtune.checkpoints.lora.adapter_files import adapter_config, adapter_from_state, is_adapter_weight
from vidtune.checkpoints.lora.added_rows import joined_rows
from vidtune.checkpoints.lora.bundle import LANGUAGE_MODEL, write_bundle
from vidtune.checkpoints.parts.contrast import write_contrast
from vidtune.models.language_model.head import tied_names
from vidtune.models.text_alignment.contrast import GROUP
from vidtune.models.video_lm import VideoLM
from vidtune.recipe.files import RECIPE_FILE, dump_recipe
from vidtune.training.setup.stage import StageSetup


def write_result(setup: StageSetup, folder: Path, state: dict[str, Tensor]) -> None:
    """Write the result of a stage to ``folder``: weights, config, processor files and recipe.

    Args:
        setup: the stage; its model may be wrapped or sharded, because all weights come from ``state``.
        folder: an empty folder; the caller makes it appear in one step.
        state: whole tensors on the CPU by the names of ``setup.model.state_dict()``: the trained weights, and if
            :attr:`StageSetup.result_needs_frozen` all other weights too.
    """
    state = _without_contrast(setup, folder, state)
    if setup.result_needs_frozen:
        with without_progress_bar():
            setup.model.save_pretrained(folder, state_dict=_once(joined_rows(state, setup.model), setup.model))
    else:
        _write_bundle(setup, folder, state)
    setup.processor.save_pretrained(folder)
    (folder / RECIPE_FILE).write_text(dump_recipe(setup.recipe), encoding="utf-8")


def _without_contrast(setup: StageSetup, folder: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Write what the towers were compared with into a folder of its own. Returns the weights of the model."""
    if setup.contrast is None or setup.captions is None:
        return state
    prefix = f"{GROUP}."
    # Frozen parts are whole on each rank; of the others the state has the whole tensors.
    held = {name: value.cpu() for name, value in setup.contrast.state_dict().items() if not isinstance(value, DTensor)}
    held |= {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    write_contrast(folder, setup.contrast.config, held, setup.captions.tokenizer)
    return {name: value for name, value in state.items() if not name.startswith(prefix)}


def _once(state: dict[str, Tensor], model: VideoLM) -> dict[str, Tensor]:
    """Each tied weight under its first name only; sharded ranks give a copy for every name."""
    repeated = {name for names in tied_names(model) for name in names[1:]}
    return {name: tensor for name, tensor in state.items() if name not in repeated}


def _write_bundle(setup: StageSetup, folder: Path, state: dict[str, Tensor]) -> None:
    assert setup.base is not None
    parts = setup.base.parts
    named = parts.language_model if parts is not None and isinstance(parts.language_model, str) else None
    adapters = {}
    for component, layers in setup.adapted.items():
        settings = setup.trained[component].lora
        assert settings is not None
        task = "CAUSAL_LM" if component == LANGUAGE_MODEL else None
        config = adapter_config(settings, layers, named or setup.base.checkpoint or "", task)
        prefix = component + "."
        factors = {
            name.removeprefix(prefix): tensor
            for name, tensor in state.items()
            if name.startswith(prefix) and is_adapter_weight(name)
        }
        adapters[component] = adapter_from_state(factors, config, folder)
    others = {name: tensor for name, tensor in state.items() if not is_adapter_weight(name)}
    write_bundle(folder, setup.base, setup.base_sample, adapters, others)
    setup.model.config.architectures = [type(setup.model).__name__]
    setup.model.config.save_pretrained(folder)
