"""In the place of a tower that a model is without: its features come from files."""

from typing import Any, NoReturn

from torch import nn

from vidtune.errors import UserError
from vidtune.processing.stream_settings import absent_message


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
