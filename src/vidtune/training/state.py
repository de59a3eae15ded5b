"""``state.json`` of a checkpoint: facts about its run, and the check whether a run may continue from it."""

from pathlib import Path
from typing import Any

import torch

from vidtune import __version__
from vidtune.errors import UserError
from vidtune.foreign.documents import read_object, require_types
from vidtune.machine.software import software_versions
from vidtune.planning.plan import explain_difference
from vidtune.recipe.fingerprint import recipe_fingerprint
from vidtune.training.ranks.group import Ranks
from vidtune.training.saving import PREFIX
from vidtune.training.setup.exclusions import excluded_from
from vidtune.training.setup.stage import StageSetup


def stage_state(setup: StageSetup, ranks: Ranks, step: int) -> dict[str, Any]:
    """Returns the state of a stage after ``step`` optimizer steps, as JSON values.

    The position in the data follows from ``plan`` and ``step`` alone, for any number of ranks.
    """
    plan = setup.plan
    return {
        "stage": setup.stage.name,
        "step": step,
        "total_steps": plan.total_steps,
        "epoch": plan.epoch(step),
        "samples": plan.samples_until(step),
        "recipe": recipe_fingerprint(setup.recipe),
        "plan": plan.identity(),
        "excluded": setup.exclusions.before(step),
        "arithmetic": arithmetic(setup, ranks),
        "versions": software_versions(__version__),
    }


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Returns the ``state.json`` of a checkpoint.

    Raises:
        UserError: the file cannot be read, or a value is missing or of another type; names the value.
    """
    path = checkpoint / "state.json"
    state = read_object(path)
    try:
        require_types(state, {"step": int, "plan": dict, "excluded": list, "arithmetic": dict})
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if state["step"] < 1 or (checkpoint.name.startswith(PREFIX) and checkpoint.name != f"{PREFIX}{state['step']}"):
        raise UserError(f"{path}: 'step' is {state['step']}, which is not that of {checkpoint.name}")
    kept = state.get("since_last_log", {})
    if not isinstance(kept, dict) or not all(isinstance(value, (int, float)) for value in kept.values()):
        raise UserError(f"{path}: 'since_last_log' has a wrong value; remove it: the next log line covers fewer steps")
    for entry in state["excluded"]:
        excluded_from(entry, f"{path}: 'excluded'")
    return state


def check_state(checkpoint: Path, state: dict[str, Any], setup: StageSetup, ranks: Ranks) -> list[str]:
    """Check whether a run may continue from a checkpoint.

    Returns: a note for the user if the results will be equal to those of an undisturbed run up to float rounding only.
    Raises:
        UserError: the data have changed; the message names the change.
    """
    try:
        difference = explain_difference(state["plan"], setup.plan.identity())
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{checkpoint / 'state.json'}: 'plan' has a wrong value; move the checkpoint away") from None
    if difference is not None:
        raise UserError(
            f"{checkpoint}: the training data of stage {setup.stage.name!r} have changed since: {difference}; bring "
            "them back, or train into another folder"
        )
    then, now = state["arithmetic"], arithmetic(setup, ranks)
    # A checkpoint of an earlier version does not tell all of them.
    changes = [f"{key} {then[key]} -> {value}" for key, value in now.items() if then.get(key, value) != value]
    if not changes:
        return []
    return [
        f"{checkpoint.name} goes on with {', '.join(changes)}: equal to float rounding, not bit for bit, to a run "
        "without that change"
    ]


def arithmetic(setup: StageSetup, ranks: Ranks) -> dict[str, Any]:
    """Returns the settings that change the last bits of a result."""
    return {
        "ranks": ranks.world,
        "parallel": setup.stage.parallel if ranks.world > 1 else "none",
        "max_tokens_per_batch": setup.stage.max_tokens_per_batch,
        "gradient_checkpointing": setup.stage.gradient_checkpointing,
        "device": ranks.device.type,
        "gpu": torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "none",
        "threads": torch.get_num_threads(),
        **{name: version for name, version in software_versions(__version__).items() if name != "python"},
    }
