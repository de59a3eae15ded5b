"""The processor: samples and questions -> examples, by the tokenizer, streams and prompt formats of one system."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, PositiveInt
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef, Sample, Turn
from vidtune.errors import MediaError, UserError
from vidtune.media.preprocessing import Preprocessing
from vidtune.media.probe import MediaInfo, probe
from vidtune.processing.packing import Example, MediaSlot, StreamBatch
from vidtune.processing.prompts import PromptFormat
from vidtune.processing.tokenizing import ChunkTokenizer, Encoded, Placeholder, encode, media_tags


class StreamSettings(BaseModel):
    """What the processor knows of a stream.

    Args:
        preprocessing: file -> tensor.
        placeholder_id: token id that stands for one media token; outside the vocabulary.
        num_tokens: tokens of one item, from the model's config; where they depend on the item, tokens by the shape of
            what preprocessing gives ("3x8x252x448"), for every shape it can give.
        num_placeholders: how much an item counts for `max_length`, before its placeholder is expanded.
        max_items: most items in one training sample; None means any number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preprocessing: Preprocessing
    placeholder_id: int
    num_tokens: PositiveInt | dict[str, PositiveInt]
    num_placeholders: PositiveInt = 1
    max_items: PositiveInt | None = None

    def tokens_of(self, shape: Sequence[int]) -> int:
        """Tokens of an item of which preprocessing gives this shape."""
        return self.num_tokens if isinstance(self.num_tokens, int) else self.num_tokens["x".join(map(str, shape))]


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
        from vidtune.systems import get_system

        return get_system(self.system).prompts

    def prompt_format(self, name: str) -> PromptFormat:
        """Raises UserError for a name the system does not know."""
        if name not in self.prompts:
            raise UserError(f"prompt format '{name}': system {self.system} has {', '.join(sorted(self.prompts))}")
        return self.prompts[name]

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
        changed = VideoLMProcessor(self.tokenizer, self.system, streams, self.chunk_tokenizer.legacy)
        changed.media_info = self.media_info
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
            encoded = self._encode(
                sample.turns,
                sample.media,
                prompt,
                supervise=supervise,
                max_length=max_length,
                max_expanded_length=max_expanded_length,
            )
        except SampleProblem as problem:
            raise problem.of(sample.id) from None
        return _example(sample.id, encoded, sample.media, seed)

    def question_example(
        self,
        question: str,
        media: Sequence[MediaRef],
        prompt: str,
        history: Sequence[Turn] = (),
        id: str = "",
        num_tokens: Sequence[int] | None = None,
    ) -> Example:
        """Tokenise a question whose answer is open; nothing is labelled.

        Media tags that stand in the question, or in the history, say where the media go. Without any, all tags are put
        before the first user turn, in the order of `media`.

        Args:
            history: earlier turns, user first.
            id: of the example.
            num_tokens: of every media item; None: as its stream and its file's metadata say.
        Raises:
            SampleProblem: question, tags and media do not fit together; names `id`.
        """
        turns = [*history, Turn("user", question)]
        format_ = self.prompt_format(prompt)
        if media and not any(media_tags(turn.text, self.streams) for turn in turns):
            first = next(number for number, turn in enumerate(turns) if turn.role == "user")
            tags = "".join(f"<{ref.stream}>" for ref in media)
            turns[first] = Turn("user", f"{tags}{format_.media_separator}{turns[first].text}")
        try:
            self._check_media(media, format_, limit=False)
            encoded = self._encode(turns, media, prompt, num_tokens, supervise=False, open_answer=True)
        except SampleProblem as problem:
            raise problem.of(id) if id else problem from None
        return _example(id, encoded, media, None)

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
        from vidtune.systems import get_system

        questions = [text] if isinstance(text, str) else list(text)
        name = prompt or get_system(self.system).answering_prompt
        items = {stream: list(given) for stream, given in (("image", images), ("video", videos)) if given}
        shares = self._deal_media(questions, items)
        media = {stream: self._load(stream, given) for stream, given in items.items()}
        counts = {stream: iter(batch.num_tokens) for stream, batch in media.items()}
        examples = [
            self.question_example(
                question, share, name, id=str(number), num_tokens=[next(counts[ref.stream]) for ref in share]
            )
            for number, (question, share) in enumerate(zip(questions, shares, strict=True))
        ]
        length = max(len(example) for example in examples)
        pad = self.tokenizer.pad_token_id or 0
        ids = np.stack(
            [np.pad(example.input_ids, (length - len(example), 0), constant_values=pad) for example in examples]
        )
        mask = np.stack([np.arange(length) >= length - len(example) for example in examples])
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask).long(), "media": media}

    def _load(self, stream: str, items: Sequence[Any]) -> StreamBatch:
        """Paths, or decoded pixels, as the batch of a stream."""
        settings = self.streams[stream]
        arrays = [
            settings.preprocessing.load(str(item))
            if isinstance(item, str | Path)
            else settings.preprocessing.apply(np.asarray(item))
            for item in items
        ]
        batch = StreamBatch.stack(arrays, [settings.tokens_of(array.shape) for array in arrays])
        return batch.to_float(settings.preprocessing)

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
        prompt: str,
        num_tokens: Sequence[int] | None = None,
        **options: Any,
    ) -> Encoded:
        placeholders = []
        for ref, tokens in zip(media, num_tokens or map(self.media_tokens, media), strict=True):
            settings = self.streams[ref.stream]
            placeholders.append(Placeholder(ref.stream, settings.placeholder_id, tokens, settings.num_placeholders))
        format_ = self.prompt_format(prompt)
        return encode(turns, format_, self.chunk_tokenizer, placeholders, streams=tuple(self.streams), **options)

    def media_tokens(self, ref: MediaRef) -> int:
        """Tokens that a media item becomes; its file's metadata is read only where items differ.

        Raises:
            SampleProblem: its metadata cannot be read.
        """
        settings = self.streams[ref.stream]
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


def _example(id: str, encoded: Encoded, media: Sequence[MediaRef], seed: int | None) -> Example:
    slots = tuple(
        MediaSlot(ref, num_tokens, None if seed is None else seed + number)
        for number, (ref, num_tokens) in enumerate(zip(media, encoded.media_tokens, strict=True))
        if num_tokens
    )
    return Example(id, encoded.input_ids, encoded.labels, slots, encoded.masked, encoded.truncated)
