"""``state.json`` of a checkpoint: facts about its run, and the check whether a run may continue from it."""

import json
import platform
from pathlib import Path
from typing import Any

import torch
import transformers

import vidtune
from vidtune.errors import UserError
from vidtune.planning.plan import explain_difference
from vidtune.recipe.types import recipe_fingerprint
from vidtune.training.ranks.group import Ranks
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
        "versions": versions(),
    }


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Returns the ``state.json`` of a checkpoint."""
    return json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))


def check_state(checkpoint: Path, state: dict[str, Any], setup: StageSetup, ranks: Ranks) -> list[str]:
    """Check whether a run may continue from a checkpoint.

    Returns: a note for the user if the results will be equal to those of an undisturbed run up to float rounding only.
    Raises:
        UserError: the data have changed; the message names the change.
    """
    difference = explain_difference(state["plan"], setup.plan.identity())
    if difference is not None:
        raise UserError(
            f"{checkpoint}: the training data of stage {setup.stage.name!r} have changed since: {difference}; bring "
            "them back, or train into another folder"
        )
    then, now = state["arithmetic"], arithmetic(setup, ranks)
    changes = [f"{key} {then.get(key)} -> {value}" for key, value in now.items() if then.get(key) != value]
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
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def versions() -> dict[str, str]:
    """Returns the versions of the software that a result depends on."""
    return {
        "vidtune": vidtune.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
