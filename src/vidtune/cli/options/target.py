"""Options of ``vidtune answer`` about one target in the video."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidtune.errors import UserError

if TYPE_CHECKING:
    from vidtune.api.target import Target
    from vidtune.media.boxes.located import LocatedTarget

_BOX = re.compile(r"(?P<numbers>[-+.,\w\s]+)@(?P<frame>#?)(?P<moment>[-+.\w\s]+)", re.ASCII)


@dataclass(frozen=True)
class TargetOptions:
    """The options that describe a target."""

    box: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X1,Y1,X2,Y2@SECONDS",
            help="The target that <box> in the question names; write <box> there. @#12: in frame 12.",
        ),
    ] = None
    box_form: Annotated[
        str | None,
        typer.Option(
            metavar="FORM", help="Numbers of --box: xyxy (default) or xywh in pixels, xyxy_fraction, xywh_fraction."
        ),
    ] = None
    track: Annotated[Path | None, typer.Option(help="JSON file with boxes of the target at other moments.")] = None
    tracker: Annotated[
        str | None,
        typer.Option(help="Find the other boxes: csrt (surer) or kcf (faster). Needs `pip install 'vidtune[track]'`."),
    ] = None
    draw: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the video with its boxes (.mp4), or the frames used (.png)."),
    ] = None

    def build(self, videos: list[Path], media_timeout: float) -> "Target | LocatedTarget | None":
        """The target, after a look at the video: in its pixels, unless a tracker will follow it. None without --box.

        Raises:
            UserError: an option is wrong, does not fit the others, or does not fit the video.
        """
        from vidtune.api.target import Target, only_video
        from vidtune.media.boxes.drawing import check_drawing

        if not self.box:
            options = {
                "--box-form": self.box_form,
                "--track": self.track,
                "--tracker": self.tracker,
                "--draw": self.draw,
            }
            if lonely := next((option for option, value in options.items() if value is not None), None):
                raise UserError(f"{lonely}: needs a target; give --box X1,Y1,X2,Y2@SECONDS")
            return None
        if len(self.box) > 1:
            raise UserError(f"--box: was given {len(self.box)} times; ask about one target at a time")
        video, [text] = only_video(videos), self.box
        if self.draw is not None:
            check_drawing(self.draw, video)
        numbers, seconds, frame = _parsed(text)
        try:
            track = self.track if self.track is not None else ()
            form = "xyxy" if self.box_form is None else self.box_form
            target = Target(numbers, seconds, track, form, frame, self.tracker)
        except UserError as error:
            raise UserError(f"--box {text}: {error}") from None
        located = target.locate(video, media_timeout)
        return located if self.tracker is None else target


def _parsed(text: str) -> tuple[list[float], float | None, int | None]:
    """Numbers, seconds and frame of the option ``--box``."""
    found = _BOX.fullmatch(text)
    try:
        if found is None or "_" in text:  # Python reads 3_2 as 32
            raise ValueError
        numbers = [float(number) for number in found["numbers"].split(",")]
        if len(numbers) != 4:
            raise ValueError
        if found["frame"]:
            return numbers, None, int(found["moment"])
        return numbers, float(found["moment"]), None
    except ValueError:
        raise UserError(f"--box {text}: write X1,Y1,X2,Y2@SECONDS, such as 12,30,88,200@1.5") from None
