"""What a folder without a checkpoint is instead, and where the checkpoint is that the user may have meant."""

from pathlib import Path

from vidtune.errors import UserError
from vidtune.machine.nearby import below, listed

_OF_A_CHECKPOINT = (
    "config.json",
    "adapter_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_STEP = "state.json"
"""File in the folder of a saved step, from which a stopped run continues."""


def require_checkpoint(path: Path) -> None:
    """Raise UserError for a folder that holds no checkpoint, but below which there are some, such as that of a run."""
    if path.is_dir() and not holds_checkpoint(path) and (where := elsewhere(path)):
        raise UserError(f"{path}: no checkpoint{where}")


def holds_checkpoint(folder: Path) -> bool:
    """Return whether a folder looks like one of a checkpoint."""
    return any((folder / name).is_file() for name in _OF_A_CHECKPOINT)


def elsewhere(folder: Path) -> str:
    """Return the end of an error message: where the checkpoint is instead; empty if nothing is known."""
    if not folder.is_dir():
        return ""
    if _is_step(folder):
        result = folder.parent / "final"
        ended = f"; the result of its stage is {result}" if holds_checkpoint(result) else ""
        return f": the folder is a saved step, from which the same vidtune train command continues{ended}"
    if found := below(folder, holds_checkpoint):
        return f"; below it {'are checkpoints' if len(found) > 1 else 'is a checkpoint'}: {listed(found)}"
    if below(folder, _is_step):
        return "; a run lies here whose first stage has not ended: continue it with vidtune train"
    return ""


def _is_step(folder: Path) -> bool:
    return (folder / _STEP).is_file() and not holds_checkpoint(folder)
