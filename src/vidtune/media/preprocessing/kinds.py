"""All kinds of preprocessing by name: settings that build the tensor of one stream.

A kind is a frozen pydantic model whose ``kind`` field is its name in recipes and in saved processors. It has ``read``
(file -> pixels or wave), ``apply`` (those -> tensor), ``load`` (both), ``output_shape`` and ``to_float``, as
`PixelPreprocessing` has.
"""

from typing import Annotated

from pydantic import Field

from vidtune.media.preprocessing.resize_keeping_aspect import AnyPixelImagePreprocessing, AnyPixelVideoPreprocessing
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing, VideoPreprocessing
from vidtune.media.preprocessing.sound import FbankPreprocessing, LogMelPreprocessing

Preprocessing = Annotated[
    ImagePreprocessing
    | VideoPreprocessing
    | AnyPixelImagePreprocessing
    | AnyPixelVideoPreprocessing
    | FbankPreprocessing
    | LogMelPreprocessing,
    Field(discriminator="kind"),
]
"""Type of a pydantic field that holds the preprocessing of a stream."""

KINDS: dict[str, type] = {
    "image": ImagePreprocessing,
    "video": VideoPreprocessing,
    "any_pixel_image": AnyPixelImagePreprocessing,
    "any_pixel_video": AnyPixelVideoPreprocessing,
    "fbank": FbankPreprocessing,
    "log_mel": LogMelPreprocessing,
}
"""Class of each kind of preprocessing, by name."""
