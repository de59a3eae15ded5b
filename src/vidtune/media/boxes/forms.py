"""Forms of boxes: corners or corner and size, in pixels or as fractions of the frame; checks that need no video."""

import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from vidtune.errors import UserError
from vidtune.media.preprocessing.box_choice import box_problem
from vidtune.spelling import suggestion

Box = tuple[float, float, float, float]
"""Left, top, right and bottom; x to the right, y down."""
FORMS = ("xyxy", "xywh", "xyxy_fraction", "xywh_fraction")
"""Left, top, right, bottom, or left, top, width, height; in pixels, or as fractions of the frame."""


@dataclass(frozen=True)
class GivenBox:
    """A box as it was given, at a moment of a video. Checked when it is made.

    Args:
        box: four numbers.
        seconds: moment from the start of the video; None: ``frame`` says it.
        frame: index of the frame, from 0; None: ``seconds`` says it.
        form: one of `FORMS`.

    Raises:
        UserError: an unknown form, not four finite numbers, a box without area, fractions outside 0 to 1, or not one
            moment.
    """

    box: Box
    seconds: float | None = None
    frame: int | None = None
    form: str = "xyxy"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UserError(f"box form {self.form!r} does not exist; {suggestion(str(self.form), FORMS)}")
        for name, value in {"box": _four_numbers(self.box), "seconds": self.seconds, "frame": self.frame}.items():
            object.__setattr__(self, name, _plain(value))
        self._check_moment()
        left, top, right, bottom = self.corners
        if problem := box_problem(self.corners):
            expected = "x,y,width,height above 0" if self._is_sized else "x1,y1,x2,y2 with x1 < x2 and y1 < y2"
            raise UserError(f"the box {written(self.box)} {problem}; write {expected}")
        if self._is_fraction and not all(0 <= number <= 1 for number in self.corners):
            other = self.form.removesuffix("_fraction")
            raise UserError(f"the box {written(self.box)} is not within 0 to 1; boxes in pixels have the form {other}")
        if not self._is_fraction and right - left < 1 and bottom - top < 1:
            raise UserError(
                f"the box {written(self.box)} is smaller than a pixel; fractions have the form {self.form}_fraction"
            )

    @property
    def corners(self) -> Box:
        """Left, top, right and bottom, in the unit of the form."""
        left, top, right, bottom = self.box
        return (left, top, left + right, top + bottom) if self._is_sized else self.box

    def in_pixels(self, width: int, height: int) -> Box:
        """Left, top, right and bottom in pixels of a frame of this size."""
        across, down = (width, height) if self._is_fraction else (1, 1)
        left, top, right, bottom = self.corners
        return left * across, top * down, right * across, bottom * down

    @property
    def moment(self) -> str:
        """The moment as a text for messages."""
        return f"frame {self.frame}" if self.seconds is None else f"{self.seconds:g} s"

    @property
    def _is_sized(self) -> bool:
        return self.form.startswith("xywh")

    @property
    def _is_fraction(self) -> bool:
        return self.form.endswith("_fraction")

    def _check_moment(self) -> None:
        if (self.seconds is None) == (self.frame is None):
            raise UserError("a box needs its moment: the seconds, or the number of the frame, and not both")
        if self.frame is not None:
            if isinstance(self.frame, bool) or not isinstance(self.frame, int) or self.frame < 0:
                raise UserError(f"the frame of a box is {self.frame!r}; write a whole number from 0")
        elif not _is_number(self.seconds) or self.seconds < 0:  # type: ignore[operator]
            raise UserError(f"the moment of a box is {self.seconds!r}; write seconds from the start of the video")


def written(box: Sequence[float]) -> str:
    """A box as a text for messages: ``12,30,88,200``."""
    return ",".join(f"{number:g}" for number in box)


def _four_numbers(given: Any) -> Box:
    try:
        numbers = () if isinstance(given, Set | Mapping) else tuple(map(_plain, given))
    except TypeError:
        numbers = ()
    if len(numbers) != 4 or not all(map(_is_number, numbers)):
        raise UserError(f"a box is four finite numbers, not {' '.join(repr(given).split())}")
    left, top, right, bottom = map(float, numbers)
    return left, top, right, bottom


def _plain(number: Any) -> Any:
    """A number of numpy or torch as one of Python; anything else as it is."""
    return number.item() if getattr(number, "ndim", None) == 0 else number


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # `isfinite` raises for whole numbers that are larger
