"""``vidtune data frames``: frames of videos as pictures."""

from pathlib import Path
from typing import Annotated

import typer

from vidtune.cli.terminal.shown_text import show_line


def frames(
    videos: Annotated[list[Path], typer.Argument(help="Video files, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder that gets a folder of frames for each video.")],
    fps: Annotated[float, typer.Option(help="Frames per second, exactly.")] = 1.0,
) -> None:
    """Write the frames of videos as pictures, NAME/NAME_1.jpg and so on.

    A video whose folder exists is skipped, so that a command that was stopped can be repeated. The exit code is 2 if a
    video cannot be read, or its folder was made at another rate; the others are extracted all the same.
    """
    import math

    from vidtune.data.writing.frames import extract_frames, videos_in
    from vidtune.errors import UserError
    from vidtune.machine.progress import ProgressDisplay
    from vidtune.spelling import counted

    if not (math.isfinite(fps) and fps > 0):
        raise UserError(f"--fps {fps:g}: give a number above 0")
    wrong = []
    with ProgressDisplay(transient=True) as display:
        found = videos_in(videos, out)
        for video, number, error in extract_frames(found, fps, display):
            if error is None:
                show_line(f"{video}: {counted(number, 'frame')} in {found[video]}")
            else:
                wrong.append(str(error))
    if wrong:
        raise UserError("; ".join(wrong))
