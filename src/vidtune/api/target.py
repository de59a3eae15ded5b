"""A target that a question is about: a box at a moment of a video, and what is known of its way."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vidtune.api.arguments import names_arguments
from vidtune.errors import UserError
from vidtune.media.boxes.forms import GivenBox
from vidtune.media.boxes.located import LocatedTarget, locate
from vidtune.media.boxes.track_file import read_track
from vidtune.media.boxes.tracking import check_tracker, followed
from vidtune.processing.asked_media import info_of

Moments = Sequence[tuple[float, Sequence[float]]]


def only_video(videos: Sequence[Path]) -> Path:
    """The one video in which a target is. Raises UserError if there is none, or several."""
    if len(videos) != 1:
        raise UserError(f"--box: needs one --video in which the box is, and {len(videos)} were given")
    return videos[0]


@dataclass(frozen=True)
class Target:
    """One target in a video, for questions that contain ``<box>``; argument of :meth:`Model.answer`.

    Args:
        box: four numbers, see ``form``.
        seconds: moment of the box, from the start of the video.
        track: further boxes of the target: (seconds, box) pairs, or (frame, box) pairs if ``frame`` is given, or a JSON
            file of boxes; empty: only ``box`` is known.
        form: ``"xyxy"`` (left, top, right, bottom) or ``"xywh"`` (left, top, width, height), in pixels of the frame;
            ``"xyxy_fraction"`` or ``"xywh_fraction"``, in fractions of its width and height.
        frame: number of the frame of the box, from 0, in place of ``seconds``; for folders of frames.
        tracker: ``"csrt"`` (surer) or ``"kcf"`` (faster) follows the box through the video, in place of ``track``.

    Raises:
        UserError: a box without area, an unknown form or tracker, no moment, or OpenCV is not installed.

    Example:
        >>> vidtune.Target((12, 30, 88, 200), seconds=1.5).form
        'xyxy'
    """

    box: Sequence[float]
    seconds: float | None = None
    track: Moments | str | Path = ()
    form: str = "xyxy"
    frame: int | None = None
    tracker: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", self._given.box)
        if self.track == "" or not isinstance(self.track, str | Path | tuple | list):
            raise UserError(f"the track of a target is {self.track!r}; give a list of pairs, or a JSON file")
        if self.tracker is not None:
            if self.track:
                raise UserError("a target has a track or a tracker that finds it; give one of them")
            check_tracker(self.tracker)

    @property
    def _given(self) -> GivenBox:
        return GivenBox(self.box, self.seconds, self.frame, self.form)  # type: ignore[arg-type]

    @names_arguments
    def locate(self, video: str | Path, media_timeout: float = 60.0) -> LocatedTarget:
        """The boxes of the target in pixels, at the frames of a video. A tracker does not run.

        Raises:
            UserError: a box outside the frame, a moment after the end, or a track of another video.
        """
        path = Path(video).resolve()
        info = info_of(path, media_timeout)
        if info.kind not in ("video", "frames"):
            raise UserError(f"{path}: is no video, but {info.kind}; a box is asked about in a video")
        found = LocatedTarget(str(path), info, locate(str(path), info, self._given, "--box"))
        if isinstance(self.track, str | Path):
            return found.with_track(*read_track(Path(self.track), Path(video), self.form))
        names = [f"--box: track[{number}]" for number in range(len(self.track))]
        return found.with_track([self._of_track(*both) for both in zip(self.track, names, strict=True)], names)

    @names_arguments
    def follow(self, video: str | Path, media_timeout: float = 60.0) -> LocatedTarget:
        """As :meth:`locate`, with the track that the tracker finds, if one is named."""
        found = self.locate(video, media_timeout)
        if self.tracker is None:
            return found
        return LocatedTarget(found.video, found.info, found.key, followed(found, self.tracker, media_timeout))

    def _of_track(self, pair: tuple[float, Sequence[float]], name: str) -> GivenBox:
        try:
            moment, box = pair
        except (TypeError, ValueError):
            raise UserError(f"{name}: expected a pair of a moment and a box, found {pair!r}") from None
        try:
            if self.frame is None:
                return GivenBox(box, moment, None, self.form)  # type: ignore[arg-type]
            return GivenBox(box, None, moment, self.form)  # type: ignore[arg-type]
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
