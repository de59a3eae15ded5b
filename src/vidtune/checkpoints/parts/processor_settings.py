"""Settings in the files of a processor beside published weights, against the preprocessing of their system.

Source: image and video processors of transformers.
"""

from collections.abc import Mapping
from math import isclose
from typing import Any

from vidtune.checkpoints.files.settings import KnownSettings
from vidtune.checkpoints.publication import JsonDict
from vidtune.errors import UserError
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.media.preprocessing.pixels import PixelPreprocessing

_RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
_VALUES = ("image_mean", "image_std", "size", "crop_size", "image_size", "resample", "num_frames", "rescale_factor")
_STEPS = ("do_resize", "do_center_crop", "do_normalize", "do_rescale", "do_convert_rgb")
_KNOWN = KnownSettings(
    read=frozenset(_VALUES),
    only={
        **dict.fromkeys(_STEPS, (True, None)),
        **dict.fromkeys(("do_pad", "do_sample_frames", "do_flip"), (False, None)),
        "fps": (None,),
        "data_format": ("channels_first", None),
    },
    ignored={
        "names of classes": ("processor_class", "*_processor_type", "feature_extractor_type", "auto_map"),
        "how it is called": ("_valid_processor_keys", "device", "input_data_format", "return_*", "video_metadata"),
        "used with other sizes only": ("default_to_square", "size_divisor", "pad_size"),
        "placeholders, which our prompts write": (
            *("image_token", "video_token", "num_additional_image_tokens", "patch_size", "chat_template"),
            *("vision_feature_select_strategy", "image_seq_length"),
        ),
    },
    why=dict.fromkeys(_STEPS, "the preprocessing of its system does it"),
)
_WITH_PARTS = KnownSettings(nested={"image_processor": _KNOWN, "video_processor": _KNOWN}) | _KNOWN


def require_same(files: Mapping[str, JsonDict], preprocessing: Mapping[str, Preprocessing], where: str) -> None:
    """Raise UserError where a processor's file asks for another preprocessing than that of the system.

    Args:
        files: content of the files by name.
        preprocessing: preprocessing of each stream; those of frames and pictures are compared.
        where: folder, for the message.
    """
    ours = [one for one in preprocessing.values() if isinstance(one, PixelPreprocessing)]
    for name, content in files.items():
        _WITH_PARTS.require(content, f"{where}/{name}")
        parts = [content, *(content[part] for part in _WITH_PARTS.nested if isinstance(content.get(part), dict))]
        for key, value in ((key, part[key]) for part in parts for key in _VALUES if part.get(key) is not None):
            known = [found for one in ours if (found := _ours(key, one)) is not None]  # nearest is 0
            if known and not any(_same(_plain(value), one) for one in known):
                shown = " or ".join(dict.fromkeys(map(str, known)))
                raise UserError(
                    f"{where}/{name}: {key} is {value}, but the preprocessing of the system has {shown}; take the "
                    "file that was published with these weights, or remove it"
                )


def _ours(key: str, one: Any) -> Any:
    """The value of a setting in a preprocessing of ours; None where it has none."""
    if key in ("image_mean", "image_std"):
        return list(one.mean if key == "image_mean" else one.std)
    if key == "rescale_factor":
        return 1 / 255
    if key == "resample":
        return _RESAMPLING.get(getattr(one, "interpolation", ""))
    return getattr(one, "num_frames" if key == "num_frames" else "size", None)


def _plain(value: Any) -> Any:
    """A size that is written by its sides, as one number where they agree."""
    if isinstance(value, dict):
        sides = {side for side in value.values() if side is not None}
        return sides.pop() if len(sides) == 1 else value
    return value


def _same(value: Any, ours: Any) -> bool:
    if isinstance(ours, list):
        return isinstance(value, list) and len(value) == len(ours) and all(map(_same, value, ours))
    return isinstance(value, int | float) and isclose(value, ours, rel_tol=1e-5)
