"""Options that say which frames of a video are read."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidtune.errors import UserError

if TYPE_CHECKING:
    from vidtune.media.clip_times import Part


@dataclass(frozen=True)
class ReadingOptions:
    """Which seconds and which frames of the videos are read; the default: all, as the model was trained."""

    start: Annotated[float | None, typer.Option(help="Second at which the one video is read from.")] = None
    end: Annotated[float | None, typer.Option(help="Second up to which it is read; default: its end.")] = None
    frames: Annotated[
        int | None,
        typer.Option(help="Frames that are read of a video; default: as many as the model was trained with."),
    ] = None
    frames_at: Annotated[
        str | None,
        typer.Option(metavar="SECONDS", help="Read the frames at these seconds of the one video, as 1.0,2.5."),
    ] = None

    def given(self) -> dict[str, Any]:
        """The options as arguments of :meth:`vidtune.Model.answer`."""
        return {"start": self.start, "end": self.end, "frames": self.frames, "frames_at": self._seconds()}

    def build(self) -> "Part | None":
        """What of a video is read. Raises UserError for impossible values."""
        from vidtune.media.clip_times import asked_part

        return asked_part(**self.given())

    @staticmethod
    def rules(part: "Part") -> dict[str, Any]:
        """The rules ``reading`` of a protocol that say the same."""
        given = {"start": part.start, "end": part.end, "frames": part.frames, "frames_at": list(part.frames_at) or None}
        return {name: value for name, value in given.items() if value is not None}

    def _seconds(self) -> list[float] | None:
        if self.frames_at is None:
            return None
        try:
            return [float(second) for second in self.frames_at.split(",")]
        except ValueError:
            raise UserError(f"--frames-at {self.frames_at}: write seconds and commas, as 1.0,2.5") from None
