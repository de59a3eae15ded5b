"""What a finished stage leaves behind: a whole checkpoint, or a bundle when only adapters and few parts trained."""

from pathlib import Path

from torch import Tensor

from vidtune.checkpoints.lora.adapters import adapter_config, adapter_from_state, is_adapter_weight
from vidtune.checkpoints.lora.bundle import LANGUAGE_MODEL, write_bundle
from vidtune.checkpoints.quiet import without_progress_bar
from vidtune.recipe.types import dump_recipe
from vidtune.training.setup.run_folder import RECIPE
from vidtune.training.setup.stage import StageSetup


def write_result(setup: StageSetup, folder: Path, state: dict[str, Tensor]) -> None:
    """Fill ``folder`` with the stage's result: weights, config, processor files and recipe.

    Args:
        setup: the stage; its model may be wrapped or sharded, weights are taken from ``state`` alone.
        folder: exists and is empty; making it appear all at once is the caller's part.
        state: whole tensors on CPU under the names of ``setup.model.state_dict()`` as set up: the trained ones, and
            where :attr:`StageSetup.result_needs_frozen` all others too.
    """
    if setup.result_needs_frozen:
        with without_progress_bar():
            setup.model.save_pretrained(folder, state_dict=state)
    else:
        _write_bundle(setup, folder, state)
    setup.processor.save_pretrained(folder)
    (folder / RECIPE).write_text(dump_recipe(setup.recipe), encoding="utf-8")


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
