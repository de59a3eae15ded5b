"""Published systems: one file each, and what they are made of."""

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from vidtune.errors import UserError
from vidtune.spelling import suggestion

if TYPE_CHECKING:
    from vidtune.systems.base import System

SYSTEMS = ("video_llava", "video_panda", "longvale")


def list_systems() -> tuple[str, ...]:
    """Names of all systems."""
    return SYSTEMS


@cache
def get_system(name: str) -> "System":
    """The system of that name. Raises UserError naming the nearest known one."""
    if name not in SYSTEMS:
        raise UserError(f"unknown system {name!r}; {suggestion(name, SYSTEMS)}")
    return import_module(f"vidtune.systems.{name}").SYSTEM
