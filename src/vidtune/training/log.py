"""What a run tells about itself: ``log.jsonl`` (one object per line) and the same numbers for TensorBoard.

Keys of a line: step (finished optimizer steps), epoch, loss (mean per supervised token), learning_rate and
gradient_norm per component and in total (before clipping), samples, tokens, supervised_tokens, tokens_per_second,
data_wait (share of the time spent waiting for data), memory_gib (peak), seconds. Counts and times cover the steps
since the line before.
"""

import json
import resource
from pathlib import Path
from typing import Any

import torch


class TrainingLog:
    """Writer of a stage's log.

    Args:
        folder: of the stage.
        first_step: steps done so far; lines of later steps, written before a crash, are dropped because those steps
            run again.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = folder / "log.jsonl"
        self._keep_until(path, first_step)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for key, value in line.items():
            for name, number in value.items() if isinstance(value, dict) else [("", value)]:
                if key != "step":
                    self._board.add_scalar(f"{key}/{name}" if name else key, number, line["step"])

    def close(self) -> None:
        self._file.close()
        self._board.close()

    @staticmethod
    def _keep_until(path: Path, step: int) -> None:
        if not path.is_file():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if not line.endswith("\n") or json.loads(line)["step"] > step:
                break
            kept.append(line)
        path.write_text("".join(kept), encoding="utf-8")


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory so far: of the accelerator, or of this process on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
