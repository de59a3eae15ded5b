"""All kinds of preprocessing by name: settings that build the tensor of one stream.

A kind is a frozen pydantic model whose ``kind`` field is its name in recipes and in saved processors. It has ``read``
(file -> pixels or wave), ``apply`` (those -> tensor), ``load`` (both), ``output_shape`` and ``to_float``, as
`PixelPreprocessing` has.
"""

from collections.abc import Mapping, Sequence
from math import gcd
from typing import Annotated, Any

from pydantic import BaseModel, Field, SerializationInfo, SerializerFunctionWrapHandler, ValidatorFunctionWrapHandler
from pydantic.functional_serializers import WrapSerializer
from pydantic.functional_validators import WrapValidator

from vidtune.media.clip_times import Part
from vidtune.media.preprocessing import PARTS
from vidtune.media.preprocessing.frame_sampling import FrameCount
from vidtune.media.preprocessing.regions import RegionPreprocessing
from vidtune.media.preprocessing.resize_keeping_aspect import AnyPixelImagePreprocessing, AnyPixelVideoPreprocessing
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing, VideoPreprocessing
from vidtune.media.preprocessing.sound import FbankPreprocessing, LogMelPreprocessing
from vidtune.media.preprocessing.tiles import TilesPreprocessing
from vidtune.registry import PREPROCESSING, RESIZE_RULES, SAMPLING_RULES, Registry

AS_MANY = "linspace"
"""Sampling rule of clips whose frames are named by their seconds: it gives as many as are asked for."""


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


def as_read(preprocessing: Preprocessing, count: int = 1, part: Part | None = None) -> Preprocessing:
    """Return the settings by which one medium is read.

    Args:
        count: number of items of the stream in the prompt, see `among`.
        part: what is read of the medium; None: the whole file, by the rules of the stream.

    Raises:
        ValueError: a number of frames for what is no clip.
    """
    steps: Any = among(preprocessing, count)
    if part is None or part.num_frames is None:
        return steps
    if not hasattr(steps, "num_frames"):
        raise ValueError(f"preprocessing {steps.kind!r} takes no frames of a clip; leave out frames and frames_at")
    changes: dict[str, Any] = {"num_frames": part.num_frames}
    if part.frames_at:
        changes["sampling"] = AS_MANY
    if hasattr(steps, "min_frames"):
        multiple = 1 if part.frames_at else gcd(steps.multiple_of, part.num_frames)
        by_clip = SAMPLING_RULES[changes.get("sampling", steps.sampling)].number is not None
        changes |= {"min_frames": part.num_frames if by_clip else 1, "multiple_of": multiple}
    return steps.model_copy(update=changes)


def is_usual(preprocessing: Preprocessing, frames: int) -> bool:
    """Return whether such preprocessing may give a clip of so many frames by its own rules."""
    return frames in _numbers(preprocessing)


def usual_frames(preprocessing: Preprocessing) -> str:
    """Return in words how many frames clips have by the rules of such preprocessing: "8", or "1 to 100"."""
    numbers = _numbers(preprocessing)
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _numbers(preprocessing: Preprocessing) -> Sequence[int]:
    steps: Any = preprocessing
    least, multiple = getattr(steps, "min_frames", 1), getattr(steps, "multiple_of", 1)
    return SAMPLING_RULES[steps.sampling].numbers(FrameCount(steps.num_frames, least, multiple))


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
