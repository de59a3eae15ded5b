"""All kinds of preprocessing by name: settings that build the tensor of one stream.

A kind is a frozen pydantic model whose ``kind`` field is its name in recipes and in saved processors. It has ``read``
(file -> pixels or wave), ``apply`` (those -> tensor), ``load`` (both), ``output_shape`` and ``to_float``, as
`PixelPreprocessing` has.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, SerializationInfo, SerializerFunctionWrapHandler, ValidatorFunctionWrapHandler
from pydantic.functional_serializers import WrapSerializer
from pydantic.functional_validators import WrapValidator

from vidtune.media.clip_times import Part
from vidtune.media.preprocessing import PARTS
from vidtune.media.preprocessing.regions import RegionPreprocessing
from vidtune.media.preprocessing.resize_keeping_aspect import AnyPixelImagePreprocessing, AnyPixelVideoPreprocessing
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing, VideoPreprocessing
from vidtune.media.preprocessing.sound import FbankPreprocessing, LogMelPreprocessing
from vidtune.media.preprocessing.tiles import TilesPreprocessing
from vidtune.registry import PREPROCESSING, RESIZE_RULES, SAMPLING_RULES, Registry


def _from_outside(value: Any) -> bool:
    """Whether settings are of a kind that another package or a call has registered."""
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return kind not in PARTS and kind in PREPROCESSING


def _validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    if not _from_outside(value):
        return handler(value)
    return value if isinstance(value, BaseModel) else PREPROCESSING[value["kind"]].model_validate(value)  # type: ignore[attr-defined]


def _serialize(value: Any, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
    return value.model_dump(mode=info.mode) if _from_outside(value) else handler(value)


Preprocessing = Annotated[
    ImagePreprocessing
    | VideoPreprocessing
    | AnyPixelImagePreprocessing
    | AnyPixelVideoPreprocessing
    | RegionPreprocessing
    | TilesPreprocessing
    | FbankPreprocessing
    | LogMelPreprocessing,
    Field(discriminator="kind"),
    WrapValidator(_validate),
    WrapSerializer(_serialize),
]
"""Type of a pydantic field that holds the preprocessing of a stream, of a registered kind too."""


def random_setting(preprocessing: Preprocessing) -> str | None:
    """Return the name of the setting that makes preprocessing random, so that its seed matters; None: none does.

    A kind may have a property ``random_setting`` that tells it.
    """
    if getattr(preprocessing, "flip_probability", 0.0):
        return "flip_probability"
    return getattr(preprocessing, "random_setting", None)


def reads_parts(preprocessing: Preprocessing) -> bool:
    """Return whether preprocessing reads a part of a file, from a start to an end; a kind has ``reads_parts`` then."""
    return getattr(preprocessing, "reads_parts", False)


def no_parts(preprocessing: Preprocessing) -> str:
    """Return what is wrong with a part of a file that such preprocessing should read."""
    return f"preprocessing {preprocessing.kind!r} reads whole files only, no part from a start to an end"


def part_read(preprocessing: Preprocessing, part: Part | None) -> Part | None:
    """Return what preprocessing reads of a file if this part is asked for; None: the whole file.

    A kind may have a method ``part_read`` that tells it, as clips know the frame rate of folders.
    """
    tell = getattr(preprocessing, "part_read", None)
    return part if tell is None else tell(part)


def reads_extras(preprocessing: Preprocessing | None) -> bool:
    """Return whether preprocessing reads extras of each item, so that a file alone does not decide what it gives.

    A kind with ``load_item`` does, unless it has ``reads_extras = False``: it makes extras of the file alone.
    """
    return hasattr(preprocessing, "load_item") and getattr(preprocessing, "reads_extras", True)


def among(preprocessing: Preprocessing, count: int) -> Preprocessing:
    """Return the settings that are used where a sample has ``count`` items of the stream.

    A kind may have a method ``among(count)`` that tells them; those of other kinds do not depend on it.
    """
    if not hasattr(preprocessing, "among"):
        return preprocessing
    settings: Preprocessing = preprocessing.among(count)
    return settings


def reads_boxes(preprocessing: Preprocessing) -> bool:
    """Return whether preprocessing reads the extra ``boxes``, in pixels of frames; a kind has ``reads_boxes`` then."""
    return getattr(preprocessing, "reads_boxes", False)


def unseeded_problem(preprocessing: Preprocessing) -> str | None:
    """Return why preprocessing cannot do what its settings say without a seed, as answers need it; None: it can.

    A kind may have a property ``unseeded_problem`` that tells it.
    """
    return getattr(preprocessing, "unseeded_problem", None)


def parts_of(preprocessing: Preprocessing) -> list[tuple[Registry[Any], str]]:
    """Return the registered parts that preprocessing uses, by registry and name: its kind and its rules."""
    registries = ((PREPROCESSING, "kind"), (SAMPLING_RULES, "sampling"), (RESIZE_RULES, "resize"))
    return [(registry, getattr(preprocessing, name)) for registry, name in registries if hasattr(preprocessing, name)]
