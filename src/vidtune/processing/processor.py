"""The processor: samples and questions -> examples, by the tokenizer, streams and prompt formats of one system."""

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef, Sample, Turn
from vidtune.errors import MediaError, UserError
from vidtune.media.feature_file import feature_shape, is_feature_file, read_features
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.media.probe import MediaInfo, probe
from vidtune.processing.absent_towers import absent_message
from vidtune.processing.batch import Example, MediaSlot, StreamBatch
from vidtune.processing.prompts import PromptFormat
from vidtune.processing.times import mark_times
from vidtune.processing.tokenizing import ChunkTokenizer, Encoded, Placeholder, encode, media_tags
from vidtune.registry import SYSTEMS


class StreamSettings(BaseModel):
    """What the processor knows of a stream.

    Args:
        preprocessing: file -> tensor.
        placeholder_id: token id that stands for one media token; outside the vocabulary.
        num_tokens: tokens of one item, from the model's config; where they depend on the item, tokens by the shape of
            what preprocessing gives ("3x8x252x448"), for every shape it can give; or as many for each of its rows, the
            first dimension, where there may be any number of these ("1500/256", rounded down).
        num_placeholders: how much an item counts for `max_length`, before its placeholder is expanded.
        max_items: most items in one training sample; None means any number.
        absent_tower: name of the stream's tower and what it is published as, where the model is without it: the stream
            reads stored features alone.
        feature_rows, feature_size: tokens and width of what the tower gives, which files of features must have; rows
            are None where they depend on the item, and the width where nothing is known of the tower.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preprocessing: Preprocessing
    placeholder_id: int
    num_tokens: PositiveInt | dict[str, PositiveInt] | Annotated[str, Field(pattern=r"^\d+(/\d+)?$")]
    num_placeholders: PositiveInt = 1
    max_items: PositiveInt | None = None
    absent_tower: tuple[str, str] | None = None
    feature_rows: PositiveInt | None = None
    feature_size: PositiveInt | None = None

    def tokens_of(self, shape: Sequence[int]) -> int:
        """Tokens of an item of which preprocessing gives this shape."""
        if isinstance(self.num_tokens, int):
            return self.num_tokens
        if isinstance(self.num_tokens, dict):
            return self.num_tokens["x".join(map(str, shape))]
        return int(shape[0] * Fraction(self.num_tokens))

    def tokens_of_features(self, shape: tuple[int, int]) -> int:
        """Tokens of an item of which the tower's features are stored.

        Raises:
            ValueError: the features are not of this tower; says in what they differ.
        """
        rows, width = shape
        if self.feature_size is not None and width != self.feature_size:
            raise ValueError(f"its features have width {width} where the tower gives {self.feature_size}")
        if self.feature_rows is not None and rows != self.feature_rows:
            raise ValueError(f"it holds {rows} features where the tower gives {self.feature_rows}")
        return self.num_tokens if isinstance(self.num_tokens, int) else rows


class VideoLMProcessor(ProcessorMixin):
    """Tokenizer, preprocessing and prompt formats of a model; saved beside its weights.

    Args:
        tokenizer: of the language model.
        system: name of the system; its prompt formats are looked up there.
        streams: settings by stream name.
        legacy: flavour of a sentencepiece tokenizer, see `ChunkTokenizer`; None takes the tokenizer's. Saved, because
            transformers 5 does not save it.
        chat_template: unused, for transformers.

    Attributes:
        media_info: path -> metadata, for streams whose items differ in tokens; :meth:`ProbeCache.get` remembers it from
            run to run. Not saved, and never called for other streams.
    """

    media_info: Callable[[str], MediaInfo] = staticmethod(probe)
    switched_off: frozenset[str] = frozenset()

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        system: str,
        streams: Mapping[str, StreamSettings | Mapping[str, Any]],
        legacy: bool | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.system = system
        self.streams = {name: StreamSettings.model_validate(settings) for name, settings in streams.items()}
        self.chunk_tokenizer = ChunkTokenizer(tokenizer, legacy)
        super().__init__(tokenizer, chat_template=chat_template)

    @property
    def prompts(self) -> Mapping[str, PromptFormat]:
        """The system's prompt formats by name."""
        return SYSTEMS[self.system].dialect.prompts

    def prompt_format(self, name: str) -> PromptFormat:
        """Raises UserError for a name the system does not know."""
        if name not in self.prompts:
            raise UserError(f"prompt format '{name}': system {self.system} has {', '.join(sorted(self.prompts))}")
        return self.prompts[name]

    @property
    def companions(self) -> Mapping[str, tuple[str, ...]]:
        """Streams that read the same file as another one, by that one's name."""
        return SYSTEMS[self.system].dialect.companions

    @property
    def times(self) -> str | None:
        """Name of the rule by which moments are written in texts; None where none are."""
        return SYSTEMS[self.system].dialect.times

    @property
    def preprocessing(self) -> dict[str, Preprocessing]:
        """How media of each stream become tensors."""
        return {name: settings.preprocessing for name, settings in self.streams.items()}

    @property
    def looks_at_media(self) -> bool:
        """Whether the metadata of media files decide how many tokens a sample has."""
        return not all(isinstance(settings.num_tokens, int) for settings in self.streams.values())

    @property
    def placeholder_ids(self) -> dict[str, int]:
        return {name: settings.placeholder_id for name, settings in self.streams.items()}

    def with_preprocessing(self, overrides: Mapping[str, Mapping[str, Any]]) -> "VideoLMProcessor":
        """The same processor with some preprocessing settings replaced.

        Args:
            overrides: per stream, e.g. ``{"image": {"pad_to_square": True}}``.
        Raises:
            UserError: a stream or setting that does not exist, or a value that does not fit.
        """
        streams = dict(self.streams)
        for name, changes in overrides.items():
            if name not in streams:
                raise UserError(f"media.{name}: system {self.system} has the streams {', '.join(streams)}")
            old = streams[name].preprocessing
            try:
                new = type(old).model_validate({**old.model_dump(), **changes})
            except ValueError as error:
                raise UserError(f"media.{name}: {' '.join(str(error).split())}") from error
            if not set(new.output_shapes()) <= set(old.output_shapes()):
                raise UserError(
                    f"media.{name}: the model takes {old.output_shape()} but this gives {new.output_shape()}"
                )
            streams[name] = streams[name].model_copy(update={"preprocessing": new})
        changed = copy(self)
        changed.streams = streams
        return changed

    def without(self, streams: Collection[str]) -> "VideoLMProcessor":
        """The same processor with some streams switched off: where their tokens would stand, there are none.

        Raises:
            UserError: a stream that does not exist.
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
        """Tokenise a sample; no file is touched, but for the metadata of media whose number of tokens differs.

        Args:
            prompt: name of a prompt format.
            supervise: label the answers.
            max_length: cut before expansion, see `encode`.
            max_expanded_length: cut after it. Media of which nothing is left are dropped.
            seed: of random preprocessing; None switches it off.
        Raises:
            SampleProblem: the sample is not usable; names it.
        """
        try:
            self._check_media(sample.media, self.prompt_format(prompt), limit=supervise)
            parts = [self._parts(ref) for ref in sample.media]
            encoded = self._encode(
                mark_times(sample.turns, sample.times, self.times),
                sample.media,
                parts,
                prompt,
                supervise=supervise,
                max_length=max_length,
                max_expanded_length=max_expanded_length,
            )
        except SampleProblem as problem:
            raise problem.of(sample.id) from None
        return _example(sample.id, encoded, parts, seed)

    def question_example(
        self,
        question: str,
        media: Sequence[MediaRef],
        prompt: str,
        history: Sequence[Turn] = (),
        id: str = "",
        parts: Sequence[Sequence[tuple[MediaRef, int]]] | None = None,
    ) -> Example:
        """Tokenise a question whose answer is open; nothing is labelled.

        Media tags that stand in the question, or in the history, say where the media go. Without any, all tags are put
        before the first user turn, in the order of `media`.

        Args:
            history: earlier turns, user first.
            id: of the example.
            parts: of every media item, who reads it and the tokens that this gives; None: as its streams and its
                file's metadata say.
        Raises:
            SampleProblem: question, tags and media do not fit together; names `id`.
        """
        turns = [*history, Turn("user", question)]
        format_ = self.prompt_format(prompt)
        if media and not any(media_tags(turn.text, self.streams) for turn in turns):
            first = next(number for number, turn in enumerate(turns) if turn.role == "user")
            turns[first] = Turn("user", format_.with_tags(turns[first].text, [ref.stream for ref in media]))
        try:
            self._check_media(media, format_, limit=False)
            parts = [self._parts(ref) for ref in media] if parts is None else parts
            encoded = self._encode(turns, media, parts, prompt, supervise=False, open_answer=True)
        except SampleProblem as problem:
            raise problem.of(id) if id else problem from None
        return _example(id, encoded, parts, None)

    def split_at_media(self, example: Example) -> tuple[np.ndarray, np.ndarray]:
        """Ids up to and including the last media token, and the rest. Without media the first part is empty.

        Examples about the same media whose text before them is the same have equal first parts: text is tokenised
        separately on both sides of a placeholder.
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
    ) -> dict[str, Any]:
        """Inputs of `VideoLM.forward` and `generate`, for plain transformers code.

        Args:
            text: one or more questions (B). Tags in them take the next item of `images` or `videos`, over all questions
                in order; if no question has tags, every question must get the same number, put before it.
            images, videos: items of the streams "image" and "video": a path, or decoded uint8 RGB pixels (H, W, 3) or
                (T, H, W, 3).
            prompt: name of a prompt format; None takes the one the system answers with.

        Returns:
            `input_ids` and `attention_mask`, (B, L) int64, padded on the left; `media`, the batch of each stream.
        Raises:
            SampleProblem: tags and media do not fit together.
        """
        questions = [text] if isinstance(text, str) else list(text)
        name = prompt or SYSTEMS[self.system].dialect.answering_prompt
        items = {stream: list(given) for stream, given in (("image", images), ("video", videos)) if given}
        loaded = {stream: iter([self._load(stream, item) for item in given]) for stream, given in items.items()}
        examples, read = [], []
        for number, (question, share) in enumerate(zip(questions, self._deal_media(questions, items), strict=True)):
            found = [next(loaded[ref.stream]) for ref in share]
            parts = [[(ref, tokens) for ref, tokens, _ in item] for item in found]
            examples.append(self.question_example(question, share, name, id=str(number), parts=parts))
            read += [part for item in found for part in item]
        media = {}
        for stream in dict.fromkeys(ref.stream for ref, _, _ in read):
            refs, tokens, arrays = zip(*(part for part in read if part[0].stream == stream), strict=True)
            batch = StreamBatch.stack(arrays, tokens, encoded=[is_feature_file(ref.path) for ref in refs])
            media[stream] = batch.to_float(self.streams[stream].preprocessing)
        length = max(len(example) for example in examples)
        pad = self.tokenizer.pad_token_id or 0
        ids = np.stack(
            [np.pad(example.input_ids, (length - len(example), 0), constant_values=pad) for example in examples]
        )
        mask = np.stack([np.arange(length) >= length - len(example) for example in examples])
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask).long(), "media": media}

    def _load(self, stream: str, item: Any) -> list[tuple[MediaRef, int, np.ndarray | torch.Tensor]]:
        """All that is read of a path, or of decoded pixels: by which stream, its tokens, and what towers take."""
        if not isinstance(item, str | Path):
            settings = self.streams[stream]
            array = settings.preprocessing.apply(np.asarray(item))
            return [(MediaRef(stream, ""), settings.tokens_of(array.shape), array)]
        return [(ref, tokens, self._read(ref)) for ref, tokens in self._parts(MediaRef(stream, str(item)))]

    def _read(self, ref: MediaRef) -> np.ndarray:
        """A file as its stream takes it: preprocessed, or the features it holds."""
        return read_features(ref.path) if is_feature_file(ref.path) else self.preprocessing[ref.stream].load(ref.path)

    def _deal_media(self, questions: Sequence[str], items: Mapping[str, Sequence[Any]]) -> list[list[MediaRef]]:
        for stream in items:
            if stream not in self.streams:
                raise UserError(f"system {self.system} has no stream '{stream}', only {', '.join(self.streams)}")
        counts = [{stream: question.count(f"<{stream}>") for stream in items} for question in questions]
        if not any(any(count.values()) for count in counts):
            if any(len(given) % len(questions) for given in items.values()):
                raise SampleProblem(
                    "tags and media differ in number", f"{len(questions)} questions without tags cannot share the media"
                )
            counts = [{stream: len(given) // len(questions) for stream, given in items.items()} for _ in questions]
            return [[MediaRef(stream, "") for stream, n in count.items() for _ in range(n)] for count in counts]
        for stream, given in items.items():
            if (tags := sum(count[stream] for count in counts)) != len(given):
                raise SampleProblem(
                    "tags and media differ in number", f"{tags} <{stream}> in the text but {len(given)} {stream} items"
                )
        return [[MediaRef(tag[1], "") for tag in media_tags(question, items)] for question in questions]

    def decode(self, ids: Any, skip_special_tokens: bool = True, **options: Any) -> str:
        """Text of ids; media placeholders are left out."""
        placeholders = set(self.placeholder_ids.values())
        kept = [int(token) for token in np.asarray(ids).reshape(-1) if int(token) not in placeholders]
        return self.tokenizer.decode(kept, skip_special_tokens=skip_special_tokens, **options)

    def to_dict(self) -> dict[str, Any]:
        """What `processor_config.json` holds; the tokenizer is saved in its own files."""
        return {
            "processor_class": type(self).__name__,
            "system": self.system,
            "legacy": self.chunk_tokenizer.legacy,
            "streams": {name: settings.model_dump(mode="json") for name, settings in self.streams.items()},
        }

    def _encode(
        self,
        turns: Sequence[Turn],
        media: Sequence[MediaRef],
        parts: Sequence[Sequence[tuple[MediaRef, int]]],
        prompt: str,
        **options: Any,
    ) -> Encoded:
        placeholders = [
            Placeholder(
                ref.stream,
                tuple((self.streams[part.stream].placeholder_id, tokens) for part, tokens in read),
                self.streams[ref.stream].num_placeholders,
            )
            for ref, read in zip(media, parts, strict=True)
        ]
        format_ = self.prompt_format(prompt)
        return encode(turns, format_, self.chunk_tokenizer, placeholders, streams=tuple(self.streams), **options)

    def resolve(self, ref: MediaRef) -> list[MediaRef]:
        """What is read of a media item: by its stream and by the companions that find something in it, in this order.

        Raises:
            SampleProblem: its stream has nothing to read, or metadata cannot be read.
        """
        return [part for part, _ in self._parts(ref)]

    def _parts(self, ref: MediaRef) -> list[tuple[MediaRef, int]]:
        """What is read of a media item, with the tokens that this gives; streams that are switched off read nothing.

        Raises:
            SampleProblem: as `resolve`, or a file has to be encoded by towers that the model is without.
        """
        parts = []
        absent: dict[str, str] = {}
        for stream in (ref.stream, *self.companions.get(ref.stream, ())):
            read = ref.read_by(stream)
            companion = stream != ref.stream
            if stream in self.switched_off or (companion and (read is None or _of_another_stream(read, ref))):
                continue
            if read is None:
                raise SampleProblem("no media file", f"there is no file for its {stream}")
            tokens = self.media_tokens(read)
            tower = self.streams[stream].absent_tower
            if tokens and tower is not None and not is_feature_file(read.path):
                absent |= {tower[0]: tower[1]}
            if tokens or not companion:
                parts.append((read, tokens))
        if absent:
            raise SampleProblem("towers that the model is without", absent_message(absent))
        return parts

    def media_tokens(self, ref: MediaRef) -> int:
        """Tokens that one stream makes of a file; its metadata is read only where files differ.

        Raises:
            SampleProblem: its metadata cannot be read, or it holds features that are not of the stream's tower.
        """
        settings = self.streams[ref.stream]
        if is_feature_file(ref.path):
            try:
                return settings.tokens_of_features(feature_shape(ref.path))
            except MediaError as error:
                raise SampleProblem("features cannot be read", str(error)) from None
            except ValueError as error:
                raise SampleProblem("features of another tower", f"{ref.path}: {error}") from None
        return settings.num_tokens if isinstance(settings.num_tokens, int) else settings.tokens_of(self.shape_of(ref))

    def shape_of(self, ref: MediaRef) -> tuple[int, ...]:
        """Shape of what preprocessing will give; the file's metadata is read only where items differ.

        Raises:
            SampleProblem: its metadata cannot be read.
        """
        settings = self.streams[ref.stream]
        try:
            info = None if isinstance(settings.num_tokens, int) else self.media_info(ref.path)
            return settings.preprocessing.output_shape(info)
        except MediaError as error:
            raise SampleProblem("media cannot be read", str(error)) from None

    def _check_media(self, media: Sequence[MediaRef], prompt: PromptFormat, limit: bool) -> None:
        streams = [ref.stream for ref in media]
        for stream in dict.fromkeys(streams):
            if stream not in self.streams:
                raise SampleProblem("no such stream", f"system {self.system} takes no {stream}")
            if prompt.only_streams is not None and stream not in prompt.only_streams:
                raise SampleProblem(
                    "stream not in this prompt format",
                    f"the prompt format '{prompt.name}' takes {', '.join(prompt.only_streams)}, not {stream}",
                )
            most = self.streams[stream].max_items
            if limit and most is not None and streams.count(stream) > most:
                raise SampleProblem(
                    "too many media", f"{streams.count(stream)} {stream} files where {most} are allowed"
                )


def _of_another_stream(read: MediaRef, ref: MediaRef) -> bool:
    """Whether a companion would read the features that the item's own stream has in place of a file."""
    return read.path == ref.path and is_feature_file(ref.path)


def _example(id: str, encoded: Encoded, parts: Sequence[Sequence[tuple[MediaRef, int]]], seed: int | None) -> Example:
    """An example of which the media are the parts whose tokens were kept; those of one file share its seed."""
    media = [(ref, number) for number, item in enumerate(parts) for ref, _ in item]
    slots = tuple(
        MediaSlot(ref, num_tokens, None if seed is None else seed + number)
        for (ref, number), num_tokens in zip(media, encoded.media_tokens, strict=True)
        if num_tokens
    )
    return Example(id, encoded.input_ids, encoded.labels, slots, encoded.masked, encoded.truncated)
