"""Readings of a medium: the streams that read one media item, the file that each reads, and what it becomes."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef
from vidtune.errors import ItemError, MediaError, UserError
from vidtune.media.feature_file import feature_shape, is_feature_file
from vidtune.media.preprocessing.kinds import as_read, is_usual, no_parts, part_read, reads_parts, usual_frames
from vidtune.media.probe import MediaInfo
from vidtune.processing.prompts.format import PromptFormat
from vidtune.processing.stream_settings import (
    Measure,
    Measured,
    StreamSettings,
    absent_message,
    needs_files_message,
)
from vidtune.spelling import counted

_FRAMES_OF_FEATURES = "stored features are of the frames that were taken then; leave out frames, or the features"
Reading = tuple[MediaRef, Measured]
"""What one stream reads of a media item, and what it becomes."""


@dataclass(frozen=True, slots=True)
class MediaReader:
    """Finds the readings of media items; only metadata of files are read.

    Args:
        streams: settings by stream name.
        companions: stream -> streams that read the same file.
        switched_off: streams that read nothing.
        media_info: path -> metadata; called only for streams whose items differ in their number of tokens.
        measures: stream -> function that counts the tokens of any clip, for media of another number of frames than
            their stream has.
    """

    streams: Mapping[str, StreamSettings]
    companions: Mapping[str, tuple[str, ...]]
    switched_off: Collection[str]
    media_info: Callable[[str], MediaInfo]
    measures: Mapping[str, Measure] = field(default_factory=dict)

    def counted(self, media: Sequence[MediaRef]) -> list[MediaRef]:
        """The media items of one prompt, each with the number of items among which it is if that matters to its stream.

        Here alone is decided which preprocessing an item gets; `among` turns the number into settings.
        """
        counts = Counter(ref.stream for ref in media)
        return [replace(ref, among=counts[ref.stream]) if self._depends(ref.stream) else ref for ref in media]

    def _depends(self, stream: str) -> bool:
        """Whether preprocessing of a stream, or of a companion, depends on the number of items."""
        readers = (stream, *self.companions.get(stream, ()))
        return any(name in self.streams and hasattr(self.streams[name].preprocessing, "among") for name in readers)

    def readings_of(self, media: Sequence[MediaRef]) -> list[list[Reading]]:
        """The readings of every media item of one prompt, see :meth:`readings`."""
        return [self.readings(ref) for ref in self.counted(media)]

    def readings(self, ref: MediaRef) -> list[Reading]:
        """The readings of a media item: that of its stream, then those of the companions that find something in it.

        Raises:
            SampleProblem: its seconds are no part of a file, its stream has nothing to read, metadata cannot be read,
                or a file must be encoded by towers that the model does not have.
        """
        try:
            _ = ref.part
        except ValueError as error:
            raise SampleProblem("no part of a file", f"{ref.path}: {error}") from None
        found: list[Reading] = []
        absent: dict[str, str] = {}
        for stream in (ref.stream, *self.companions.get(ref.stream, ())):
            read = ref.read_by(stream)
            companion = stream != ref.stream
            if stream in self.switched_off or (companion and (read is None or _of_another_stream(read, ref))):
                continue
            if read is None:
                raise SampleProblem("no media file", f"there is no file for its {stream}")
            measured = self.measure(read)
            tower = self.streams[stream].absent_tower
            if measured.tokens and tower is not None and not is_feature_file(read.path):
                absent |= {tower[0]: tower[1]}
            if measured.tokens or not companion:
                found.append((read, measured))
        if absent:
            raise SampleProblem("towers that the model is without", absent_message(absent))
        return found

    def measure(self, ref: MediaRef) -> Measured:
        """What a file becomes for one stream.

        Raises:
            SampleProblem: the metadata cannot be read, stored features are not those of the stream's tower, or the
                stream takes none.
        """
        settings, frames = self.streams[ref.stream], ref.asked_frames
        if is_feature_file(ref.path):
            if frames is not None:
                raise SampleProblem("frames of stored features", f"{ref.path}: {_FRAMES_OF_FEATURES}")
            if not settings.takes_features:
                raise SampleProblem("features in the place of a file", needs_files_message(ref.stream))
            try:
                return settings.measure_features(feature_shape(ref.path))
            except MediaError as error:
                raise SampleProblem("features cannot be read", str(error), cause=error.cause) from None
            except ValueError as error:
                raise SampleProblem("features of another tower", f"{ref.path}: {error}") from None
        if frames is not None:
            measured, changes = self.settings_of(ref).measure(self.shape_of(ref)), self._tower_changes(ref)
            return replace(measured, tower=tuple(changes.items()), untrained=self.untrained(ref))
        whole = ref.part is None
        return settings.measure(() if isinstance(settings.num_tokens, int) and whole else self.shape_of(ref))

    def untrained(self, ref: MediaRef) -> str:
        """Which number of frames a medium asks for, where the model was trained with another one; empty: with it.

        Raises:
            SampleProblem: the stream or its tower takes no such clip.
        """
        frames, usual = ref.asked_frames, self.streams[ref.stream].preprocessing
        if frames is None or (not self._tower_changes(ref) and is_usual(usual, frames)):
            return ""
        return f"{counted(frames, 'frame')} where the model was trained with {usual_frames(usual)}"

    def settings_of(self, ref: MediaRef) -> StreamSettings:
        """Settings of the stream of a medium, as they are for this medium.

        Raises:
            SampleProblem: it asks for frames that the stream or its tower does not take.
        """
        settings = self.streams[ref.stream]
        try:
            steps = as_read(settings.preprocessing, ref.among, ref.part)
        except ValueError as error:
            raise SampleProblem("frames of no clip", f"{ref.path}: {error}") from None
        update: dict[str, Any] = {} if steps is settings.preprocessing else {"preprocessing": steps}
        if ref.asked_frames is not None:
            update["num_tokens"] = self._measure_of(ref.stream).with_tower(self._tower_changes(ref))
        return settings.model_copy(update=update) if update else settings

    def _tower_changes(self, ref: MediaRef) -> dict[str, Any]:
        """Settings by which the tower of a medium takes the number of frames that it asks for."""
        frames = ref.asked_frames
        assert frames is not None
        try:
            return self._measure_of(ref.stream).tower_changes(frames)
        except ValueError as error:
            raise SampleProblem("frames that the tower does not take", f"{ref.path}: {error}") from None

    def _measure_of(self, stream: str) -> Measure:
        known = self.streams[stream].num_tokens
        measure = known if isinstance(known, Measure) else self.measures.get(stream)
        if measure is None:
            raise SampleProblem("model not known", f"{stream}: frames can be asked for only with the model at hand")
        return measure

    def frames_that_fit(self, media: Sequence[Reading], room: int) -> int | None:
        """Largest ``num_frames`` with which media become at most ``room`` tokens; None: none does, or no clip is there.

        Args:
            media: what is read of the media of a prompt, and what it becomes.
        """
        clips = [(ref, measured) for ref, measured in media if self._counts_frames(ref)]
        room -= sum(measured.tokens for _, measured in media) - sum(measured.tokens for _, measured in clips)
        tokens = sum(measured.tokens for _, measured in clips)
        if not clips or tokens < 1:
            return None
        most = max(self.shape_of(ref)[-3] for ref, _ in clips)
        for frames in range(min(most, most * max(room, 0) // tokens), 0, -1):
            found = [self._with_frames(ref, frames) for ref, _ in clips]
            if None not in found and sum(number or 0 for number in found) <= room:
                return frames
        return None

    def _counts_frames(self, ref: MediaRef) -> bool:
        """Whether a medium is a clip whose preprocessing says how many frames it may have."""
        steps = self.streams[ref.stream].preprocessing
        return hasattr(steps, "num_frames") and not is_feature_file(ref.path)

    def _with_frames(self, ref: MediaRef, frames: int) -> int | None:
        """Number of tokens of a clip of at most so many frames; None: there can be no such clip."""
        if frames % getattr(self.streams[ref.stream].preprocessing, "multiple_of", 1):
            return None
        try:
            return self.measure(replace(ref, num_frames=frames, frames_at=())).tokens
        except (SampleProblem, MediaError, UserError, ValueError, KeyError):
            return None

    def shape_of(self, ref: MediaRef) -> tuple[int, ...]:
        """Shape that preprocessing will return for a file.

        Raises:
            SampleProblem: the metadata cannot be read.
        """
        settings, part = self.settings_of(ref), ref.part
        whole = part is None or not (part.is_cut or part.fps)
        try:
            info = None if settings.all_alike and whole else info_of(ref, settings, self.media_info)
            return settings.preprocessing.output_shape(info)
        except MediaError as error:
            raise SampleProblem("media cannot be read", str(error), cause=error.cause) from None


def info_of(ref: MediaRef, settings: StreamSettings, media_info: Callable[[str], MediaInfo]) -> MediaInfo:
    """Metadata of what a stream reads of a file: of the part that the medium is.

    Raises:
        MediaError: the metadata cannot be read, there is no such part (`ItemError`), or the stream reads no parts.
    """
    if ref.part is not None and not reads_parts(settings.preprocessing):
        raise ItemError(ref.path, f"{no_parts(settings.preprocessing)}; leave out its start and end")
    return media_info(ref.path).of_part(ref.path, part_read(settings.preprocessing, ref.part))


def check_media(
    media: Sequence[MediaRef], streams: Mapping[str, StreamSettings], system: str, prompt: PromptFormat, limit: bool
) -> None:
    """Raise SampleProblem for media that the system or the prompt format does not take.

    Args:
        streams: settings by stream name.
        limit: also for more media than `StreamSettings.max_items` allows.
    """
    counts = Counter(ref.stream for ref in media)
    for stream, count in counts.items():
        if stream not in streams:
            raise SampleProblem("no such stream", f"system {system} takes no {stream}")
        if prompt.only_streams is not None and stream not in prompt.only_streams:
            raise SampleProblem(
                "stream not in this prompt format",
                f"the prompt format '{prompt.name}' takes {', '.join(prompt.only_streams)}, not {stream}",
            )
        most = streams[stream].max_items
        if limit and most is not None and count > most:
            raise SampleProblem("too many media", f"{count} {stream} files where {most} are allowed")


def _of_another_stream(read: MediaRef, ref: MediaRef) -> bool:
    """Whether a companion would read stored features that belong to the stream of the item itself."""
    return read.path == ref.path and is_feature_file(ref.path)
