"""Opens the trackers of a stage: TensorBoard by default, Weights & Biases, MLflow and trackio where installed.

``log.jsonl`` is complete without any of them. A stage is one run of a tracker. Its id is kept in ``trackers.json`` in
the folder of the stage, so a resumed stage continues the same run. Numbers of steps that run again after a crash are
not sent twice; TensorBoard deletes them and gets them again.
"""

import importlib
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vidtune.errors import ForeignFileError, RecipeError, UserError
from vidtune.foreign.documents import read_object
from vidtune.machine.files import write_json_atomically
from vidtune.recipe.types import Recipe
from vidtune.training.log import Tracker, last_logged_step
from vidtune.training.trackers.background import InBackground, reason
from vidtune.training.trackers.base import TrackedRun

STATE = "trackers.json"


@dataclass(frozen=True)
class Kind:
    """A kind of tracker, which is imported only if a recipe names it.

    Args:
        package: name of the Python package, and of the extra of vidtune.
        module, factory: module and name of the class.
        rewrites: whether it deletes the numbers of steps after the resumed one.
    """

    package: str
    module: str
    factory: str
    rewrites: bool = False

    def open(self, run: TrackedRun) -> Tracker:
        """Import the tracker and open a run."""
        return getattr(importlib.import_module(self.module), self.factory)(run)


KINDS = {
    "tensorboard": Kind("tensorboard", f"{__package__}.tensorboard", "TensorBoard", rewrites=True),
    "wandb": Kind("wandb", f"{__package__}.wandb", "WeightsAndBiases"),
    "mlflow": Kind("mlflow", f"{__package__}.mlflow", "MLflow"),
    "trackio": Kind("trackio", f"{__package__}.trackio", "Trackio"),
}


class Trackers:
    """Several trackers that are used like one."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(step, values)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()


def check_trackers(names: Iterable[str]) -> None:
    """Check that the packages of trackers are installed.

    Raises:
        UserError: a package is missing; the message gives the pip command.
    """
    for name in names:
        package = KINDS[name].package
        spec = find_spec(package)
        # Trackers create folders of this name in the working directory; such a folder is not the package.
        if spec is None or spec.origin is None:
            raise RecipeError(
                f"trackers: {name!r} needs the package {package}: pip install 'vidtune[{package}]', or take it out of "
                "the recipe's trackers"
            )


def open_trackers(
    names: Iterable[str], folder: Path, recipe: Recipe, first_step: int, note: Callable[[str], None]
) -> Trackers:
    """Start the trackers of a stage, or continue the runs that are recorded in ``folder``. One process calls it.

    It must be called before the `TrainingLog` of the stage is opened, which deletes the lines of steps that run again.

    Args:
        names: names in ``KINDS``.
        folder: folder of the stage.
        first_step: number of optimizer steps done so far.
        note: function that prints a line.

    Raises:
        UserError: a tracker cannot start and nothing has been trained yet. Later it is left out, with a note.
    """
    folder = folder.resolve()
    fresh = first_step == 0 and folder.name == recipe.stages[0].name
    state = _read_state(folder / STATE, note)
    state["seen_until"] = max(state["seen_until"], last_logged_step(folder))
    opened: list[Tracker] = []
    for name in names:
        run = TrackedRun(
            project=recipe.system,
            name=f"{folder.parent.name}/{folder.name}",
            id=state["ids"].get(name) or secrets.token_hex(8),
            resumed=name in state["ids"],
            folder=folder,
            first_step=first_step,
            config=recipe.model_dump(mode="json", by_alias=True, exclude_none=True),
        )
        after = state["seen_until"] if run.resumed and not KINDS[name].rewrites else 0
        try:
            opened.append(InBackground(name, partial(KINDS[name].open, run), note, after, must_open=fresh))
        except Exception as error:
            advice = "mend that, or take it out of the recipe's trackers"
            raise UserError(f"tracker {name}: does not start: {reason(error)}; {advice}") from error
        state["ids"][name] = run.id
    write_json_atomically(folder / STATE, state, indent=None)
    return Trackers(opened)


def _read_state(path: Path, note: Callable[[str], None]) -> dict[str, Any]:
    """What is known of the trackers of a stage. A damaged file is as none, and a note says so."""
    state: dict[str, Any] = {"seen_until": 0, "ids": {}}
    if not path.is_file():
        return state
    try:
        found = read_object(path)
    except ForeignFileError as error:
        note(f"{error}; the trackers begin new runs")
        return state
    ids, seen = found.get("ids"), found.get("seen_until")
    if type(seen) is not int or not isinstance(ids, dict) or not all(isinstance(id, str) for id in ids.values()):
        note(f"{path}: 'ids' or 'seen_until' has a wrong value; the trackers begin new runs")
        return state
    return {"seen_until": seen, "ids": ids}
