"""Report of loading a checkpoint, and the renaming of its tensors that fills the report."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from vidtune.checkpoints.publication import KeyMap
from vidtune.errors import UserError

OURS = "vidtune"
"""Name of our own format; also ``model_type`` in our config.json."""


@dataclass
class LoadReport:
    """Report of loading a checkpoint: which keys were loaded, missing or unexpected.

    Args:
        format: name of the format in which the checkpoint was read.
        loaded, ignored: numbers of keys.
        missing: keys of the model that the file does not hold.
        unexpected: keys of the file that have no place in the model.
        warnings: warnings to show to the user.
        left_out: numbers of ignored keys by what they hold, where the format says so.
        drawn: keys of the model that such a file never holds; they got random weights.
    """

    format: str
    loaded: int = 0
    ignored: int = 0
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    drawn: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = f"{self.loaded} loaded, {self.ignored} ignored, {len(self.missing)} missing"
        parts = [counts, f"{len(self.unexpected)} unexpected"]
        parts += [f"{number} of {what} left out" for what, number in self.left_out.items()]
        parts += [f"{len(self.drawn)} drawn at random"] if self.drawn else []
        return f"format {self.format}: {', '.join(parts)}"

    def refuse_gaps(self, path: Path) -> None:
        """Raise UserError when anything is missing or unexpected; names the counts and the first key of each."""
        for what, keys in (("missing", self.missing), ("unexpected", self.unexpected)):
            if keys:
                raise UserError(f"{path}: {len(keys)} keys {what} as {self.format} checkpoint, first {keys[0]!r}")


def rename(state: Mapping[str, Tensor], keys: KeyMap, report: LoadReport) -> dict[str, Tensor]:
    """Return the tensors under our names; ignored and unexpected keys go into the report.

    Raises:
        UserError: two names of one weight hold different values.
    """
    ours: dict[str, Tensor] = {}
    if keys.rewrite is not None:
        try:
            state = keys.rewrite(dict(state))
        except ValueError as error:
            raise UserError(str(error)) from None
    for name in state:
        new = keys.to_ours(name)
        if new is not None:
            tensor = state[name]
            if new in ours and not (tensor.is_meta or torch.equal(ours[new], tensor)):
                raise UserError(f"{name} and {keys.to_theirs(new)} are one weight but hold different values")
            ours[new] = tensor
        elif keys.is_ignored(name):
            report.ignored += 1
            what = keys.why_left_out(name)
            if what is not None:
                report.left_out[what] = report.left_out.get(what, 0) + 1
        else:
            report.unexpected.append(name)
    report.loaded = len(ours)
    return ours
