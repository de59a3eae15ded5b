"""The processor: samples and questions -> examples, by the tokenizer, streams and prompt formats of one system."""

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef, Sample, Turn
from vidtune.errors import RecipeError, UserError
from vidtune.media.preprocessing.kinds import Preprocessing, parts_of
from vidtune.media.probe import MediaInfo, probe
from vidtune.processing.batch import Example, MediaSlot
from vidtune.processing.dialect import check_dialect
from vidtune.processing.layout import Layout, check_layouts, needs_metadata, runs_of
from vidtune.processing.plain_inputs import items_by_stream, padded_left, read_media
from vidtune.processing.prompts.chat_template import CHAT_TEMPLATE
from vidtune.processing.prompts.format import PromptFormat
from vidtune.processing.prompts.placing import check_target, placed, with_tags
from vidtune.processing.readings import MediaReader, Reading, check_media
from vidtune.processing.stream_settings import Measure, StreamSettings
from vidtune.processing.times import mark_times
from vidtune.processing.tokenizer import ChunkTokenizer, default_beginning
from vidtune.processing.tokenizing import NO_OWNER, Encoded, Placeholder, encode
from vidtune.recipe.mistakes import first_mistake
from vidtune.registry import SYSTEMS, packages_of, require_packages


class VideoLMProcessor(ProcessorMixin):
    """Tokenizer, preprocessing and prompt formats of a model; saved beside its weights.

    Args:
        tokenizer: tokenizer of the language model.
        system: name of the system, which defines the prompt formats.
        streams: settings by stream name.
        legacy: behaviour of a sentencepiece tokenizer, see `ChunkTokenizer`; None takes the flag of the tokenizer. It
            is saved here, because transformers 5 does not save it.
        chat_template: not used; transformers passes it.
        beginning: ids before every prompt that begins as the tokenizer does; None: its beginning-of-sequence token, as
            for processors that were saved before.
        packages: packages of parts that are not of this package, as :meth:`to_dict` saved them.

    Attributes:
        media_info: path -> metadata; called only for streams whose items differ in their number of tokens. Not saved.
            :meth:`ProbeCache.get` keeps the metadata on disk.
        switched_off: streams that read nothing, see :meth:`without`. Not saved.
        measures: stream -> function that counts the tokens of any clip, see :meth:`measuring`. Not saved.
    """

    measures: Mapping[str, Measure] = MappingProxyType({})
    media_info: Callable[[str], MediaInfo] = staticmethod(probe)
    switched_off: frozenset[str] = frozenset()

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        system: str,
        streams: Mapping[str, StreamSettings | Mapping[str, Any]],
        legacy: bool | None = None,
        chat_template: str | None = None,
        packages: Mapping[str, str] | None = None,
        beginning: Sequence[int] | None = None,
    ) -> None:
        require_packages(packages or {})
        self.system = system
        self.streams = _stream_settings(streams)
        lowest_placeholder = min((settings.placeholder_id for settings in self.streams.values()), default=None)
        self.chunk_tokenizer = ChunkTokenizer(
            tokenizer, legacy, lowest_placeholder, default_beginning(tokenizer) if beginning is None else beginning
        )
        check_dialect(SYSTEMS[system].dialect, self.streams, system)
        if self.layouts:
            check_layouts(self.layouts, self.streams, self.companions, system)
        super().__init__(tokenizer, chat_template=chat_template)

    @property
    def prompts(self) -> Mapping[str, PromptFormat]:
        """The system's prompt formats by name."""
        return SYSTEMS[self.system].dialect.prompts

    def prompt_format(self, name: str) -> PromptFormat:
        """The prompt format of this name, with the end token of the tokenizer.

        ``chat_template`` is the chat template of the tokenizer, unless the system has a format of this name.

        Raises:
            UserError: the system has no such format, or the tokenizer lacks a token of it.
        """
        if name not in self.prompts:
            if name == CHAT_TEMPLATE:
                return self.chunk_tokenizer.template
            raise UserError(f"prompt format '{name}': system {self.system} has {', '.join(sorted(self.prompts))}")
        return self.chunk_tokenizer.fitted(self.prompts[name])

    @property
    def companions(self) -> Mapping[str, tuple[str, ...]]:
        """Stream -> streams that read the same file."""
        return SYSTEMS[self.system].dialect.companions

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """Stream -> what replaces its tag in a prompt."""
        return SYSTEMS[self.system].dialect.layouts

    @property
    def times(self) -> str | None:
        """Name of the rule by which moments are written in texts; None if the system writes no moments."""
        return SYSTEMS[self.system].dialect.times

    @property
    def positions(self) -> str:
        """Name of the rule by which tokens get their positions."""
        return SYSTEMS[self.system].dialect.positions

    @property
    def target(self) -> tuple[str, ...]:
        """Streams of the box and of the track of a target; none, if the system cannot be asked about one."""
        return SYSTEMS[self.system].dialect.target or ()

    @property
    def preprocessing(self) -> dict[str, Preprocessing]:
        """Preprocessing of each stream."""
        return {name: settings.preprocessing for name, settings in self.streams.items()}

    @property
    def looks_at_media(self) -> bool:
        """Whether the number of tokens of a sample depends on the metadata of its media files."""
        differ = not all(settings.all_alike for settings in self.streams.values())
        return differ or any(map(needs_metadata, self.layouts.values()))

    @property
    def placeholder_ids(self) -> dict[str, int]:
        """Placeholder token id of each stream."""
        return {name: settings.placeholder_id for name, settings in self.streams.items()}

    def with_preprocessing(self, overrides: Mapping[str, Mapping[str, Any]]) -> "VideoLMProcessor":
        """A copy of the processor with some preprocessing settings replaced.

        Args:
            overrides: stream -> settings, such as ``{"image": {"pad_to_square": True}}``.
        Raises:
            UserError: a stream or setting does not exist, or a value does not fit.
        """
        streams = dict(self.streams)
        for name, changes in overrides.items():
            if name not in streams:
                raise RecipeError(f"media.{name}: system {self.system} has the streams {', '.join(streams)}")
            old = streams[name].preprocessing
            try:
                new = type(old).model_validate({**old.model_dump(), **changes})
            except ValidationError as error:
                raise RecipeError(f"media.{name}.{first_mistake(error)}") from None
            if why := streams[name].misfit(new):
                raise RecipeError(f"media.{name}: {why}")
            streams[name] = streams[name].model_copy(update={"preprocessing": new})
        changed = copy(self)
        changed.streams = streams
        return changed

    def measuring(self, measures: Mapping[str, Measure]) -> "VideoLMProcessor":
        """A copy of the processor that can count the tokens of clips of any number of frames.

        Args:
            measures: stream -> function that counts them, as the config of the model tells it.
        """
        changed = copy(self)
        changed.measures = measures
        return changed

    def without(self, streams: Collection[str]) -> "VideoLMProcessor":
        """A copy of the processor with some streams switched off: they add no tokens to a prompt.

        Raises:
            UserError: a stream does not exist.
        """
        unknown = next((name for name in streams if name not in self.streams), None)
        if unknown is not None:
            raise UserError(f"system {self.system} has no stream {unknown!r}, only {', '.join(self.streams)}")
        changed = copy(self)
        changed.switched_off = self.switched_off | frozenset(streams)
        return changed

    def example(
        self,
        sample: Sample,
        prompt: str,
        *,
        supervise: bool = True,
        max_length: int | None = None,
        max_expanded_length: int | None = None,
        seed: int | None = None,
    ) -> Example:
        """Tokenise a sample. No file is read, except the metadata of media whose number of tokens depends on them.

        Args:
            prompt: name of a prompt format.
            supervise: label the answers.
            max_length: length limit before placeholders are expanded, see `encode`.
            max_expanded_length: length limit after expansion. Media without a token within the limit are dropped.
            seed: seed of random preprocessing; None switches randomness off.
        Raises:
            SampleProblem: the sample cannot be used; names the sample.
        """
        try:
            format_, streams = self.prompt_format(prompt), [ref.stream for ref in sample.media]
            check_media(sample.media, self.streams, self.system, format_, limit=supervise)
            readings = self.reader.readings_of(sample.media)
            turns = mark_times(sample.turns, sample.times, self.times)
            encoded = self._encode(
                placed(turns, streams, format_, self.streams, sample.id, self.switched_off),
                sample.media,
                readings,
                prompt,
                supervise=supervise,
                max_length=max_length,
                max_expanded_length=max_expanded_length,
            )
        except SampleProblem as problem:
            raise problem.of(sample.id) from None
        return _example(sample.id, encoded, readings, seed, self.positions)

    def question_example(
        self,
        question: str,
        media: Sequence[MediaRef],
        prompt: str,
        history: Sequence[Turn] = (),
        id: str = "",
        readings: Sequence[Sequence[Reading]] | None = None,
    ) -> Example:
        """Tokenise a question whose answer is open; no token is labelled.

        Media tags in the question or in the history say where the media belong. If there are no tags, those of
        all media are put into the first user turn, in the order of `media`, where the prompt format says.

        Args:
            history: earlier turns, user first.
            id: id of the example.
            readings: the readings of every media item; None finds them by the streams and the metadata of the files.
        Raises:
            SampleProblem: question, tags and media do not fit together; names `id`.
        """
        turns = self.with_tags([*history, Turn("user", question)], [ref.stream for ref in media], prompt, id)
        try:
            check_media(media, self.streams, self.system, self.prompt_format(prompt), limit=False)
            readings = self.reader.readings_of(media) if readings is None else readings
            encoded = self._encode(turns, media, readings, prompt, supervise=False, open_answer=True)
        except SampleProblem as problem:
            raise problem.of(id) if id else problem from None
        return _example(id, encoded, readings, None, self.positions)

    def with_tags(self, turns: Sequence[Turn], media: Sequence[str], prompt: str, id: str = "") -> list[Turn]:
        """The turns of an open question with the tags that its media lack, where the prompt format says.

        Args:
            media: streams of the media, in the order of their tags.
            prompt: name of a prompt format.
            id: chooses where the format has several texts.
        """
        return with_tags(turns, media, self.prompt_format(prompt), self.streams, self.target, id, self.switched_off)

    def split_at_media(self, example: Example) -> tuple[np.ndarray, np.ndarray]:
        """Ids up to and including the last media token, and the ids after it. Without media the first part is empty.

        Two examples with the same media and the same text before them have equal first parts, because the text before
        and after a placeholder is tokenised separately.
        """
        media_positions = np.flatnonzero(np.isin(example.input_ids, list(self.placeholder_ids.values())))
        end = int(media_positions[-1]) + 1 if len(media_positions) else 0
        return example.input_ids[:end], example.input_ids[end:]

    def __call__(
        self,
        text: str | Sequence[str],
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        *,
        prompt: str | None = None,
        return_tensors: str = "pt",
    ) -> dict[str, Any]:
        """Inputs of `VideoLM.forward` and `generate`, for plain transformers code.

        Args:
            text: one or more questions (B). Each tag takes the next item of `images` or `videos`, over all questions in
                order. If no question has tags, every question gets the same number of items, where the prompt
                format puts them.
            images, videos: items of the streams "image" and "video": a path, or decoded uint8 RGB pixels (H, W, 3) or
                (T, H, W, 3).
            prompt: name of a prompt format; None takes the system's format for answering.
            return_tensors: as in other processors; only "pt", tensors of torch, exists.

        Returns:
            `input_ids` and `attention_mask`, (B, L) int64, padded on the left; `media`, the items of each stream; and
            `position_ids`, (B, L) or (axes, B, L), if the system's positions are not those that transformers finds.
        Raises:
            SampleProblem: tags and media do not fit together.
            UserError: the system has no stream "image" or "video".
        """
        if return_tensors != "pt":
            raise UserError(f"return_tensors {return_tensors!r}: there are tensors of torch only, 'pt'")
        questions = [text] if isinstance(text, str) else list(text)
        name = prompt or SYSTEMS[self.system].dialect.answering_prompt
        items = {stream: list(given) for stream, given in (("image", images), ("video", videos)) if given}
        for stream in items:
            if stream not in self.streams:
                raise UserError(f"system {self.system} has no stream '{stream}', only {', '.join(self.streams)}")
        media = read_media(self.reader, questions, items)
        examples = [
            self.question_example(
                question,
                [ref for ref, _ in asked],
                name,
                id=str(number),
                readings=[[(ref, measured) for ref, measured, _ in read] for _, read in asked],
            )
            for number, (question, asked) in enumerate(zip(questions, media, strict=True))
        ]
        ids, mask = padded_left([example.input_ids for example in examples], self.tokenizer.pad_token_id or 0)
        read = [one for asked in media for _, found in asked for one in found]
        inputs = {"input_ids": ids, "attention_mask": mask, "media": items_by_stream(self.reader, read)}
        if self.positions != "sequential":
            axes = zip(*(example.positions().values for example in examples), strict=True)
            rows = [padded_left(axis, 0)[0] for axis in axes]
            inputs["position_ids"] = rows[0] if len(rows) == 1 else torch.stack(rows)
        return inputs

    def decode(self, ids: Any, skip_special_tokens: bool = True, **options: Any) -> str:
        """Text of ids, without media placeholders."""
        placeholders = set(self.placeholder_ids.values())
        kept = [int(token) for token in np.asarray(ids).reshape(-1) if int(token) not in placeholders]
        return self.tokenizer.decode(kept, skip_special_tokens=skip_special_tokens, **options)

    def to_dict(self) -> dict[str, Any]:
        """Content of `processor_config.json`; the tokenizer is saved in its own files."""
        packages = packages_of(part for stream in self.streams.values() for part in parts_of(stream.preprocessing))
        return {
            "processor_class": type(self).__name__,
            "system": self.system,
            "legacy": self.chunk_tokenizer.legacy,
            "streams": {name: settings.model_dump(mode="json") for name, settings in self.streams.items()},
            "beginning": self.chunk_tokenizer.beginning,
            **({"packages": packages} if packages else {}),
        }

    def _encode(
        self,
        turns: Sequence[Turn],
        media: Sequence[MediaRef],
        readings: Sequence[Sequence[Reading]],
        prompt: str,
        **options: Any,
    ) -> Encoded:
        check_target(turns, [ref.stream for ref in media], self.target)
        format_ = self.prompt_format(prompt)
        pairs = zip(media, readings, strict=True)
        placeholders = [self._placeholder(ref, found, format_.layouts) for ref, found in pairs]
        return encode(turns, format_, self.chunk_tokenizer, placeholders, streams=tuple(self.streams), **options)

    def _placeholder(self, ref: MediaRef, found: Sequence[Reading], laid_out: bool) -> Placeholder:
        """What stands in the place of a tag: the tokens of its readings, and the texts of its layout."""
        parts = tuple((self.streams[part.stream].placeholder_id, measured.tokens) for part, measured in found)
        layout = self.layouts.get(ref.stream) if laid_out else None
        settings = self.reader.settings_of(ref)
        runs = None if layout is None else runs_of(layout, ref, found, settings, self.media_info)
        return Placeholder(ref.stream, parts, settings.num_placeholders, runs)

    @property
    def reader(self) -> MediaReader:
        """What is read of the media of a prompt, and what it becomes there."""
        return MediaReader(self.streams, self.companions, self.switched_off, self.media_info, self.measures)

    def fitting(self, example: Example, limit: int, setting: str = "num_frames") -> str:
        """The end of a message about a prompt of more tokens than ``limit``: how many frames of its videos fit.

        Empty where it has no video whose number of frames is a setting, or no number of them fits.

        Args:
            setting: what sets their number, for the message.
        """
        media = [(slot.ref, slot.measured) for slot in example.media if slot.measured is not None]
        text = len(example) - sum(measured.tokens for _, measured in media)
        frames = self.reader.frames_that_fit(media, limit - text)
        return f" ({frames} frames of its videos fit: {setting})" if frames else ""


def _stream_settings(given: Mapping[str, StreamSettings | Mapping[str, Any]]) -> dict[str, StreamSettings]:
    """Settings by stream name, as the file of a processor holds them. Raises UserError, which names the key."""
    if not isinstance(given, Mapping):
        raise UserError("streams: expected an object with the settings of each stream")
    found = {}
    for name, settings in given.items():
        try:
            found[name] = StreamSettings.model_validate(settings)
        except ValidationError as error:
            raise UserError(f"streams.{name}.{first_mistake(error)}") from None
    return found


def _example(
    id: str, encoded: Encoded, readings: Sequence[Sequence[Reading]], seed: int | None, positions: str
) -> Example:
    """An example with the media whose tokens were kept; readings of one file share its seed."""
    media = [(ref, number, measured) for number, item in enumerate(readings) for ref, measured in item]
    slots = tuple(
        MediaSlot(ref, num_tokens, None if seed is None else seed + number, measured)
        for (ref, number, measured), num_tokens in zip(media, encoded.media_tokens, strict=True)
        if num_tokens
    )
    # Numbers among the parts become numbers among those that were kept; the last entry is that of NO_OWNER.
    kept = np.append(np.cumsum(np.array(encoded.media_tokens, bool)) - 1, NO_OWNER)
    owners = kept[encoded.owners]
    return Example(id, encoded.input_ids, encoded.labels, slots, encoded.masked, encoded.truncated, owners, positions)
