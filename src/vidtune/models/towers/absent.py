"""In the place of a tower that a model is without: its features come from files."""

from collections.abc import Mapping
from typing import Any, NoReturn

from torch import nn

from vidtune.errors import UserError


class AbsentTower(nn.Module):
    """Has no weights and encodes nothing.

    Published models whose towers ran once, outside the model, come without them; drawn at random they would answer
    nonsense.

    Args:
        name: of the tower in its model.
        published: what its weights are published as.
    """

    def __init__(self, name: str, published: str) -> None:
        super().__init__()
        self.name, self.published = name, published

    def forward(self, values: Any) -> NoReturn:
        """Raises UserError: there is nothing to encode with."""
        raise UserError(absent_message({self.name: self.published}))


def absent_message(published: Mapping[str, str]) -> str:
    """What to do about towers that are asked for and not there.

    Args:
        published: by tower, what its weights are published as.
    """
    names = ", ".join(f"{name} (published as {place})" for name, place in published.items())
    options = " ".join(f"--tower {name}=PLACE" for name in published)
    return f"the model comes without its towers: {names}; name their weights with {options}, or give extracted features"
