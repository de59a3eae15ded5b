"""Kinds of values in a recipe: places, component globs, names of rules; and the base of all settings."""

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator

from vidtune.recipe.sampling import known_sampling
from vidtune.registry import ORDER_RULES

COMPONENT_GLOB = re.compile(
    r"(towers|connectors|alignments|contrast)(\.[A-Za-z0-9_*?\[\]!-]+)?|language_model(\.added_tokens)?|\*"
)
A_PLACE = "path or hub id"
"""Mark of the types of values that name a file, a folder or a repository of the hub."""


def _expand_home(path: str) -> str:
    if path.isspace():
        raise ValueError("is blank; name a file or folder")
    return str(Path(path).expanduser()) if path.startswith("~") else path


def _component_glob(glob: str) -> str:
    if not COMPONENT_GLOB.fullmatch(glob):
        raise ValueError(
            f"{glob!r} is no component; write towers.NAME, connectors.NAME, alignments.STREAM, contrast.NAME, "
            "language_model or language_model.added_tokens; * matches any"
        )
    return glob


FilePath = Annotated[str, AfterValidator(_expand_home), A_PLACE]
Place = Annotated[str, A_PLACE]
OrderName = Annotated[str, AfterValidator(ORDER_RULES.known)]
SamplingName = Annotated[str, AfterValidator(known_sampling)]
ComponentGlob = Annotated[str, AfterValidator(_component_glob)]


class Settings(BaseModel):
    """Base of all recipe values: frozen, unknown keys are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, coerce_numbers_to_str=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where a number is expected; Python takes them for 1 and 0."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and {int, float} & {kind, *get_args(kind)}:
            raise ValueError(f"{info.field_name}: {str(value).lower()} is no number")
        return value


def component_matches(glob: str, component: str) -> bool:
    """Whether a ``train`` key names a component: it is a glob over its name, or the name of its group.

    A part of the language model has to be named in full: it is trained with the language model anyway.
    """
    if component.startswith("language_model."):
        return glob == component
    return fnmatchcase(component, glob) or component.startswith(glob + ".")
