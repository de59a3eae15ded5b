"""From what a record says of its media to files: below the media folder, and in folders of stored features."""

import os
from collections.abc import Mapping
from pathlib import Path

from vidtune.data.conversations import Record
from vidtune.data.media_root import MediaRoot, is_relative, resolve
from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef
from vidtune.media.feature_file import FEATURE_SUFFIXES

# The medium itself comes first: an id with its extension, or a folder of frames.
VIDEO_SUFFIXES = ("", ".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")
AUDIO_SUFFIXES = (".wav", ".mp3", ".flac", ".m4a", ".aac", ".ogg", ".opus")
IMAGE_SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
SUFFIXES = {"image": IMAGE_SUFFIXES}


class MediaFiles:
    """The files of a data source's records.

    Args:
        media: folder that media paths are relative to; None if there is none.
        features: stream -> folder of its tower's features, one file for each medium: ``<id><suffix>``, or the medium's
            path with another suffix, or with one more.
    """

    def __init__(self, media: Path | None, features: Mapping[str, Path]) -> None:
        self._media = None if media is None else MediaRoot(media)
        self._features = {stream: MediaRoot(folder) for stream, folder in features.items()}

    def refs(self, record: Record) -> tuple[MediaRef, ...]:
        """The record's media, each with all feature files that there are of it.

        A medium needs no file of its own where its stream has features of it; where the file is there as well, streams
        without features read it.

        Raises:
            SampleProblem: a path that does not stay below its folder, or nothing that the medium's stream could read.
        """
        return tuple(self._ref(stream, path, record) for stream, path in record.media)

    def fingerprint(self, by_id: bool) -> str:
        """Hash of what decides which files the records have, as far as it is looked at: names, and of features their
        sizes too. Empty where nothing is.

        Args:
            by_id: whether records name their media by their id.
        """
        parts = [f"{stream} {folder.fingerprint(sizes=True)}" for stream, folder in self._features.items()]
        if self._media is not None and (by_id or parts):
            parts.append(self._media.fingerprint())
        return " ".join(parts)

    def _ref(self, stream: str, path: str | None, record: Record) -> MediaRef:
        if path is not None and not self._features:
            return MediaRef(stream, resolve(self._media.folder if self._media else None, path))
        name = record.original_id if path is None else path
        found = {wanted: self._feature_file(folder, path, record) for wanted, folder in self._features.items()}
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

    def _feature_file(self, folder: MediaRoot, path: str | None, record: Record) -> str | None:
        """The features of a medium; those under the record's id come first, where it has one medium only."""
        names = [] if path is None else [os.path.splitext(path)[0], path]  # noqa: PTH122
        if path is None or (len(record.media) == 1 and is_relative(record.original_id)):
            names.insert(0, record.original_id)
        return next((file for name in names if (file := folder.find(name, FEATURE_SUFFIXES))), None)
