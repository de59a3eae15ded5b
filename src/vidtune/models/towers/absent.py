"""Absent tower: stands for a tower that the model does not have; its features come from files."""

from typing import Any, NoReturn

from torch import nn

from vidtune.errors import UserError
from vidtune.processing.stream_settings import absent_message


class AbsentTower(nn.Module):
    """Module without weights that cannot encode anything.

    Some published models come without their towers, which ran once, outside the model. With random towers such a model
    would answer nonsense.

    Args:
        name: name of the tower in its model.
        published: name under which its weights are published.
    """

    def __init__(self, name: str, published: str) -> None:
        super().__init__()
        self.name, self.published = name, published

    def forward(self, values: Any, **options: Any) -> NoReturn:
        """Raises UserError: the tower has no weights."""
        raise UserError(absent_message({self.name: self.published}))
