"""TensorBoard: event files in the stage's folder."""

from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from vidtune.training.trackers.base import TrackedRun


class TensorBoard:
    """Look at it with ``tensorboard --logdir <out>``. What was written after the resumed step is purged."""

    def __init__(self, run: TrackedRun) -> None:
        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.first_step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()
