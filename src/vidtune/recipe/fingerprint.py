"""What of a recipe identifies the training: the settings that decide the weights, as one hash."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from vidtune.recipe.types import DataSource, Recipe, Stage, Train
from vidtune.recipe.values import Settings

# Settings of a stage that do not change its resulting weights, or change them by float rounding only.
EXECUTION_SETTINGS = (
    "save_every",
    "keep",
    "workers",
    "media_timeout",
    "max_excluded",
    "log_every",
    "parallel",
    "max_tokens_per_batch",
    "gradient_checkpointing",
)
# Keys of a recipe that do not change the weights.
OTHER_PARTS = {"world", "benchmarks", "generation", "trackers", "features", "packages"}
# Keys that were added later, of a recipe, a stage, a component that trains and a data source: a fingerprint contains
# them only if they are set.
LATER_KEYS = ("revision",)
LATER_STAGE_KEYS = ("sizes", "objective", "optimizer", "contrast")
LATER_TRAIN_KEYS = ("embedding_learning_rate", "frozen_statistics")
LATER_SOURCE_KEYS = ("format", "sampling", "frame_rate", "roots", "missing_sets")


def recipe_fingerprint(recipe: Recipe) -> str:
    """Returns 16 hex digits that identify the training; benchmarks and execution settings have no influence."""
    values = recipe.model_dump(mode="json", by_alias=True, exclude=OTHER_PARTS)
    sources = [source for stage in values["stages"] for source in stage["data"]]
    added: tuple[tuple[Sequence[str], type[Settings], list[dict[str, Any]]], ...] = (
        (LATER_KEYS, Recipe, [values]),
        (LATER_STAGE_KEYS, Stage, values["stages"]),
        (LATER_TRAIN_KEYS, Train, [how for stage in values["stages"] for how in stage["train"].values()]),
        (LATER_SOURCE_KEYS, DataSource, sources),
    )
    for later, kind, holders in added:
        for holder in holders:
            for key in later:
                if not holder[key] or holder[key] == kind.model_fields[key].default:
                    del holder[key]
    for stage in values["stages"]:
        for setting in EXECUTION_SETTINGS:
            del stage[setting]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
