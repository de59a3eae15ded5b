"""Weights & Biases. ``WANDB_MODE=offline`` writes into the stage's folder, for ``wandb sync``."""

import os
from collections.abc import Mapping

import wandb

from vidtune.training.trackers.base import TrackedRun


class WeightsAndBiases:
    """One run of W&B per stage; ``WANDB_PROJECT`` and ``WANDB_DIR`` are obeyed."""

    def __init__(self, run: TrackedRun) -> None:
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", run.project),
            name=run.name,
            id=run.id,
            resume="allow",
            dir=os.environ.get("WANDB_DIR", str(run.folder)),
            config=dict(run.config),
            allow_val_change=True,
            settings=wandb.Settings(console="off"),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()
