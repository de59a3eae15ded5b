"""Preprocessing of a target: the frames in which it has a box, as squares, and the boxes.

Legend: n boxes of an annotation, T boxes that are taken, S side of the square, H and W pixels of a frame.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import PositiveInt, model_validator

from vidtune.errors import ItemError, MediaError, UnreadMediaError
from vidtune.media.clip_times import ClipTimes, Part
from vidtune.media.first_look import is_folder
from vidtune.media.image import frame_path, image_size, read_image
from vidtune.media.preprocessing import transforms
from vidtune.media.preprocessing.box_choice import Choice, box_problem, chosen_boxes, frame_problem, outside_problem
from vidtune.media.preprocessing.resize_rules import resized
from vidtune.media.preprocessing.resize_to_square import SquarePreprocessing
from vidtune.media.probe import MediaInfo, probe
from vidtune.media.video import read_clip
from vidtune.registry import RESIZE_RULES

NUMBERS, SECONDS = "frames", "seconds"
"""Extras that say in which frame each box is: its number in the file, or the second at which it is shown."""


class RegionPreprocessing(SquarePreprocessing):
    """Boxes in frames of a video, of a folder of frames or of one picture -> frames (3, T, S, S), and the boxes.

    The annotation gives the extra ``boxes``, (n, 4) in pixels of the frame, and says in which frame each of them is: by
    names of files in a folder, or by the extra ``frames`` or ``seconds``, (n,). All boxes of a picture are in it.

    What a connector gets: ``boxes``, (T, 4) as fractions of width and height; with a seed also ``draw``, (T,) random
    numbers in [0, 1).

    Args:
        num_boxes: number T of boxes that are taken, see `chosen_boxes`.
        choice: how they are chosen if there are more.
        follow_crop: boxes are fractions of the square. False, as published: of the whole frame, also where the square
            is a part of it.
    """

    reads_boxes: ClassVar[bool] = True
    reads_parts: ClassVar[bool] = False  # boxes stand in frames of the whole file

    kind: Literal["regions"] = "regions"
    interpolation: transforms.Interpolation = "bicubic"
    num_boxes: PositiveInt = 8
    choice: Choice = "average"
    follow_crop: bool = False

    @model_validator(mode="after")
    def _crop_can_be_followed(self) -> Self:
        if self.follow_crop and RESIZE_RULES[self.resize].boxes is None:
            raise ValueError(f"follow_crop: resize rule {self.resize!r} does not tell where boxes go")
        return self

    @property
    def random_setting(self) -> str:
        """Name of the setting that is random: with a seed, boxes are chosen at random, and ``draw`` is."""
        return "choice"

    @property
    def unseeded_problem(self) -> str | None:
        """Why boxes cannot be chosen as the settings say without a seed; None: they can."""
        return "choice: random draws boxes only in training; give average or whole" if self.choice == "random" else None

    def output_shape(self, info: MediaInfo | None = None) -> tuple[int, int, int, int]:
        """Return the shape of the values of ``load_item``."""
        return (3, self.num_boxes, self.size, self.size)

    def output_shapes(self) -> list[tuple[int, ...]]:
        """Return every shape that ``load_item`` can return."""
        return [self.output_shape()]

    def load(self, path: str, seed: int | None = None, part: Part | None = None) -> np.ndarray:
        """Refuse a file without boxes."""
        return self.load_item(path, {}, seed)[0]

    def load_item(
        self, path: str, extras: Mapping[str, np.ndarray], seed: int | None = None, frames: Sequence[str] = ()
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Read the frames of the boxes that are taken. Shape: -> float32 or uint8 (3, T, S, S), and the extras

        Args:
            path: video, folder of frames, or picture.
            extras: of the annotation, see the class.
            seed: decides the random choice; None: no randomness, and no ``draw``.
            frames: names of files in the folder, one for each box.

        Raises:
            ItemError: no boxes, an impossible one, or one that is not in its frame; a frame that is not there.
            MediaError: the file cannot be read.
        """
        boxes = _checked(path, extras, frames)
        taken = chosen_boxes(len(boxes), self.num_boxes, self.choice, seed)
        wanted = sorted(set(taken))
        values, sizes = self._squares(path, extras, frames, wanted)
        places = [wanted.index(index) for index in taken]
        fractions = np.stack(
            [self._fractions(path, index, boxes[index], sizes[wanted.index(index)]) for index in taken]
        )
        found = {"boxes": fractions}
        if seed is not None:
            found["draw"] = np.random.default_rng([seed, 1]).random(self.num_boxes, np.float32)
        return values[:, places].numpy(), found

    def _squares(
        self, path: str, extras: Mapping[str, np.ndarray], frames: Sequence[str], wanted: Sequence[int]
    ) -> tuple[torch.Tensor, list[tuple[int, int]]]:
        """Squares of the frames of some boxes, (3, number, S, S), and (width, height) of each frame."""
        if frames:
            pictures = [self._named_frame(path, frames[index])[None] for index in wanted]
        elif NUMBERS in extras or SECONDS in extras:
            pictures = [self._clip_frames(path, extras, wanted)]
        elif is_folder(path) or image_size(path) is None:
            raise ItemError(path, f"its boxes come without {NUMBERS} or {SECONDS}, which say in which frames they are")
        else:
            pictures = [self._picture(path)[None]]
        values = torch.cat([self._finish(resized(self.resize, picture, self)) for picture in pictures], dim=1)
        sizes = [(picture.shape[2], picture.shape[1]) for picture in pictures for _ in picture]
        if len(sizes) < len(wanted):  # several boxes in one picture
            values, sizes = values.expand(-1, len(wanted), -1, -1), sizes * len(wanted)
        return values, sizes

    def _named_frame(self, folder: str, name: str) -> np.ndarray:
        """Pixels of a frame that is named. Shape: -> uint8 (H, W, 3)"""
        if not is_folder(folder):
            raise ItemError(folder, "its boxes are in named frames, but it is no folder of frames")
        try:
            return self._picture(frame_path(folder, name), folder)
        except UnreadMediaError:
            raise
        except MediaError as error:
            raise ItemError(error.path, error.reason) from None

    def _picture(self, path: str, root: str | None = None) -> np.ndarray:
        return self._black(path, 1)[0] if self.blind else read_image(path, root)

    def _black(self, path: str, number: int) -> np.ndarray:
        info = probe(path)
        return np.zeros((number, info.height, info.width, 3), np.uint8)

    def _clip_frames(self, path: str, extras: Mapping[str, np.ndarray], wanted: Sequence[int]) -> np.ndarray:
        """Frames of a video or of a folder, by number or by second. Shape: -> uint8 (number of boxes, H, W, 3)"""

        def choose(times: ClipTimes) -> list[int]:
            if NUMBERS in extras:
                return [_frame_number(path, extras[NUMBERS][index], times) for index in wanted]
            return [_frame_at(path, extras[SECONDS][index], times) for index in wanted]

        if not self.blind:
            return read_clip(path, choose)[0]
        choose(probe(path).times)
        return self._black(path, len(wanted))

    def _fractions(self, path: str, index: int, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """A box as fractions. Shape: (4,) pixels -> float32 (4,)"""
        width, height = size
        if outside := outside_problem(box, width, height):
            raise ItemError(path, f"box {index} {outside}")
        fractions = box / np.array([width, height, width, height], np.float32)
        rule = RESIZE_RULES[self.resize]
        if not self.follow_crop or rule.boxes is None:
            return fractions
        followed = np.asarray(rule.boxes(fractions[None], height, width, self)[0], np.float32)
        if outside_problem(followed, 1, 1):
            raise ItemError(path, f"box {index} lies outside the part of the frame that is cut out (follow_crop)")
        return followed


def _checked(path: str, extras: Mapping[str, np.ndarray], frames: Sequence[str]) -> np.ndarray:
    """The boxes of an annotation, float32 (n, 4), after all of them were checked."""
    with np.errstate(over="ignore"):  # infinity is named below
        boxes = np.asarray(extras.get("boxes", ())).astype(np.float32)
    if not boxes.size:
        raise ItemError(path, "no box is given; give the extra 'boxes': a list of [left, top, right, bottom] in pixels")
    if boxes.ndim != 2:
        raise ItemError(path, f"its boxes have shape {boxes.shape}; expected (number, 4)")
    for index, box in enumerate(boxes):
        if problem := box_problem(box):
            raise ItemError(path, f"box {index} {problem}")
    told = {name: np.shape(extras[name]) for name in (NUMBERS, SECONDS) if name in extras}
    if frames:
        told["names of frames"] = (len(frames),)
    if len(told) > 1:
        raise ItemError(path, f"the frames of its boxes are told by {' and by '.join(told)}; give one of them")
    for name, shape in told.items():
        if shape != (len(boxes),):
            raise ItemError(path, f"it has {len(boxes)} boxes but {name} of shape {shape}; give one for each")
    return boxes


def _frame_number(path: str, number: float, times: ClipTimes) -> int:
    if problem := frame_problem(number, times.num_frames):
        raise ItemError(path, problem)
    return int(number)


def _frame_at(path: str, second: float, times: ClipTimes) -> int:
    if not times.known:
        raise ItemError(path, f"a box is at {second:g} seconds, but its frames have no times; give frames by number")
    if not 0 <= second <= times.duration:
        raise ItemError(path, f"a box is at {second:g} seconds, but it lasts {times.duration:g} seconds")
    return times.index_at(float(second))
