"""Finds the media files of an annotation: below the media folder, and in folders of stored features."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vidtune.data.annotation import Annotation
from vidtune.data.media_root import MediaRoot, resolve
from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef
from vidtune.foreign.containment import stays_below
from vidtune.media.feature_file import FEATURE_SUFFIXES

# First the name without a suffix: an id that has its extension, or a folder of frames.
VIDEO_SUFFIXES = ("", ".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")
AUDIO_SUFFIXES = (".wav", ".mp3", ".flac", ".m4a", ".aac", ".ogg", ".opus")
IMAGE_SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
SUFFIXES = {"image": IMAGE_SUFFIXES}


class MediaFiles:
    """Files of the annotations of a data source.

    Args:
        media: folder that media paths are relative to; None: there is none.
        features: stream -> folder of stored features, one file per medium: ``<id><suffix>``, or the path of the medium
            with its suffix replaced or with a suffix added.
        frame_rate: frames per second of all media but pictures, where an annotation gives none; None: those of files.
    """

    def __init__(self, media: Path | None, features: Mapping[str, Path], frame_rate: float | None = None) -> None:
        self._frame_rate = frame_rate
        self._media = None if media is None else MediaRoot(media)
        self._features = {stream: MediaRoot(folder) for stream, folder in features.items()}

    def refs(self, annotation: Annotation) -> tuple[MediaRef, ...]:
        """Returns the media of an annotation, each with all its feature files.

        A medium whose stream has a feature file needs no media file. If the media file exists too, streams without
        features read it.

        Raises:
            SampleProblem: a path leads out of its folder, the name of a frame is no plain name, or there is neither a
                media file nor a feature file.
        """
        nothing: tuple[tuple[()], ...] = ((),) * len(annotation.media)
        extras, frames = annotation.extras or nothing, annotation.frames or nothing
        parts = annotation.parts or ((None, None, None),) * len(annotation.media)
        unsafe = next((name for names in frames for name in names if not _is_plain(name)), None)
        if unsafe is not None:
            raise SampleProblem("unsafe path", f"{unsafe!r} is not the name of a frame in its folder")
        return tuple(
            replace(
                self._ref(stream, path, annotation),
                extras=numbers,
                frames=names,
                start=start,
                end=end,
                fps=self._frame_rate if fps is None and stream != "image" else fps,
            )
            for (stream, path), numbers, names, (start, end, fps) in zip(
                annotation.media, extras, frames, parts, strict=True
            )
        )

    def fingerprint(self, by_id: bool) -> str:
        """Returns a hash of the folder listings that decide which files are used; empty: no listing matters.

        It covers the names of files.

        Args:
            by_id: whether media are named by the id of their annotation.
        """
        parts = [f"{stream} {folder.fingerprint()}" for stream, folder in self._features.items()]
        if self._media is not None and (by_id or parts):
            parts.append(self._media.fingerprint())
        return " ".join(parts)

    def _ref(self, stream: str, path: str | None, annotation: Annotation) -> MediaRef:
        if path is not None and not self._features:
            return MediaRef(stream, resolve(self._media.folder if self._media else None, path))
        name = annotation.original_id if path is None else path
        found = {wanted: self._feature_file(folder, path, annotation) for wanted, folder in self._features.items()}
        suffixes = SUFFIXES.get(stream, (*VIDEO_SUFFIXES, *AUDIO_SUFFIXES)) if path is None else ("",)
        file = self._media.find(name, suffixes) if self._media else None
        if file is None and found.get(stream) is None:
            raise self._nothing(stream, name)
        return MediaRef(stream, file or "", tuple((wanted, file) for wanted, file in found.items() if file))

    def _nothing(self, stream: str, name: str) -> SampleProblem:
        no_file = f"there is no {stream} {name!r} in the media folder {self._media.folder}" if self._media else ""
        if stream in self._features:
            no_features = f"there are no features of {name!r} in {self._features[stream].folder}"
            return SampleProblem("features missing", f"{no_features}, and {no_file}" if no_file else no_features)
        if no_file:
            return SampleProblem("missing file", no_file)
        return SampleProblem("no media folder", f"{name!r} is named but the data source has no media folder")

    def _feature_file(self, folder: MediaRoot, path: str | None, annotation: Annotation) -> str | None:
        """Returns the path of a feature file; one named by the id comes first if the annotation has one medium only."""
        names = [] if path is None else [os.path.splitext(path)[0], path]  # noqa: PTH122
        if path is None or (len(annotation.media) == 1 and stays_below(annotation.original_id)):
            names.insert(0, annotation.original_id)
        return next((file for name in names if (file := folder.find(name, FEATURE_SUFFIXES))), None)


def _is_plain(name: str) -> bool:
    """Whether a name of a frame stays in its folder."""
    return stays_below(name) and Path(name).parts == (name,) and "\\" not in name
