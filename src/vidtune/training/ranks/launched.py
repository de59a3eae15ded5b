"""Training in several processes that are started here."""

import sys
import tempfile
from pathlib import Path

from vidtune.machine.ranks.launch import LaunchFailed, launch
from vidtune.recipe.files import RECIPE_FILE, dump_recipe
from vidtune.recipe.types import Recipe


def launch_training(
    recipe: Recipe, out: Path, processes: int, device: str | None = None, progress: bool = True
) -> None:
    """Train a recipe in several processes of this machine, and wait for them.

    Args:
        out: folder of the run.
        processes: number of processes.
        device: device of torch; None takes the GPUs if there are any.
        progress: whether rank 0 shows progress on standard error.

    Raises:
        UserError: this process was started by a launcher itself.
        LaunchFailed: a process failed or was stopped.
    """
    with tempfile.TemporaryDirectory(prefix="vidtune-") as folder:
        path = Path(folder) / RECIPE_FILE
        path.write_text(dump_recipe(recipe), encoding="utf-8")
        command = [sys.executable, "-m", "vidtune", "train", str(path), "--out", str(out)]
        command += ["--device", device] if device else []
        command += [] if progress else ["--quiet"]
        if code := launch(command, processes).code:
            raise LaunchFailed(code)
