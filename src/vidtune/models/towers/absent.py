"""In the place of a tower that a model is without: its features come from files."""

from typing import Any, NoReturn

from torch import nn

from vidtune.errors import UserError


class AbsentTower(nn.Module):
    """Has no weights and encodes nothing.

    Published models whose towers ran once, outside the model, come without them; drawn at random they would answer
    nonsense.

    Args:
        name: of the tower in its model.
        published: what its weights are published as; empty where that is not known.
    """

    def __init__(self, name: str, published: str = "") -> None:
        super().__init__()
        self.name, self.published = name, published

    def forward(self, values: Any) -> NoReturn:
        """Raises UserError: there is nothing to encode with."""
        raise UserError(self.message)

    @property
    def message(self) -> str:
        """What to do about it."""
        known = f" (published as {self.published})" if self.published else ""
        return (
            f"the model comes without its tower {self.name!r}{known}: name its weights with --tower {self.name}=PLACE, "
            "or give extracted features"
        )
