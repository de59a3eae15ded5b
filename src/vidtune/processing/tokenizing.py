"""Tokenising of prompts: text is tokenised between media tags, labels follow token offsets, placeholders are expanded.

Published systems split the prompt at its media tags and tokenise each chunk on its own, with the sentencepiece
tokenizer of transformers 4.31 (`tokenizer_image_token` of haotian-liu/LLaVA). Every chunk, and every text after a
special token, starts with the dummy prefix of sentencepiece. transformers 5 no longer has this tokenizer;
`ChunkTokenizer` computes the same ids with the tokenizers library.

Legend: L tokens.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Turn
from vidtune.errors import UserError
from vidtune.machine.files import read_object
from vidtune.processing.batch import IGNORED
from vidtune.processing.prompts.chat_template import template_format
from vidtune.processing.prompts.format import PromptFormat
from vidtune.processing.prompts.placing import media_tags

UNDERLINE = "▁"
"""Character that sentencepiece writes for a space."""
NO_OWNER = -1
"""Owner of a token that belongs to no media item: text."""
NO_TEXT = -1
"""Start character of a token that is not text: media, or the beginning-of-sequence token."""
PROCESSOR, OUR_PROCESSOR = "processor_config.json", "VideoLMProcessor"
"""File of a processor, which tells how its tokenizer begins a text, and the class of ours."""
CUT_OFF = "answers cut off by the length limit"


def load_tokenizer(
    path: str | Path, legacy: bool | None = None, config: PreTrainedConfig | None = None
) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder or hub name; a folder that contains only `tokenizer.model` is enough.

    Args:
        path: folder or hub name.
        legacy: behaviour of a sentencepiece tokenizer after a special token, see `ChunkTokenizer`. None takes the flag
            of `tokenizer_config.json`, or True, which was the default when the published systems were trained.
        config: the parsed config.json beside the tokenizer; None: it is read if there is one.
    Raises:
        UserError: no tokenizer can be read from there.
    """
    folder = Path(path)
    bare = (folder / "tokenizer.model").is_file() and not (folder / "tokenizer_config.json").is_file()
    try:
        known = {} if bare or config is None else {"config": config}
        tokenizer = (LlamaTokenizer if bare else AutoTokenizer).from_pretrained(str(path), **known)
    except Exception as error:  # the tokenizers library raises plain exceptions
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path}: no tokenizer can be read from there: {reason}") from error
    settings = get_tokenizer_config(str(path))
    if legacy is None:
        legacy = settings.get("legacy", True)
    # Also in init_kwargs, because transformers 5 saves only those.
    tokenizer.legacy = tokenizer.init_kwargs["legacy"] = legacy
    processor = folder / PROCESSOR
    if processor.is_file() and "streams" in (saved := read_object(processor)):
        settings = saved
    if "beginning" in settings or "streams" in settings or settings.get("processor_class") == OUR_PROCESSOR:
        tokenizer.beginning = settings.get("beginning", default_beginning(tokenizer))
    return tokenizer


def default_beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids before a text as they were before processors saved them: the beginning-of-sequence token, if any."""
    return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]


def beginning_of(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that a tokenizer puts before a text: mostly its beginning-of-sequence token, or none.

    Those of a model of ours are saved with its processor. A sentencepiece tokenizer of Llama's kind puts its token
    there unless its settings say no, as it did in transformers 4; transformers 5 no longer does.
    """
    if (known := getattr(tokenizer, "beginning", None)) is not None:
        return list(known)
    alone = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    starts = (n for n in range(len(whole)) if alone and whole[n : n + len(alone)] == alone)
    if found := whole[: next(starts, 0)]:
        return found
    is_llama = _writes_dummy_prefix(json.loads(tokenizer.backend_tokenizer.to_str()))
    return default_beginning(tokenizer) if is_llama and tokenizer.init_kwargs.get("add_bos_token", True) else []


def _checked(beginning: Any, num_tokens: int) -> list[int]:
    """The ids before a text, as a processor saved them. Raises UserError for ids that the tokenizer does not have."""
    ids = list(beginning) if isinstance(beginning, Sequence) else [beginning]
    if not all(type(id) is int and 0 <= id < num_tokens for id in ids):
        raise UserError(
            f"{PROCESSOR}: beginning is {beginning!r}; expected ids of the tokenizer (0 to {num_tokens - 1}), as "
            "they were saved with it"
        )
    return ids


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of a chunk of text. `starts`: index of the character at which each token begins."""

    ids: list[int]
    starts: list[int]


class ChunkTokenizer:
    """Turns chunks of text into ids exactly as the published training code does, with the start of each token.

    A sentencepiece tokenizer with `legacy` true puts its dummy prefix "▁" before every text between special tokens.
    With `legacy` false (as in Vicuna 1.5) only the first text of a chunk has it: after a special token the "▁" is
    removed from the first PIECE. transformers 4.31 did the same; later releases tokenise that text anew, with other
    pieces. Any other tokenizer is used unchanged.

    Args:
        tokenizer: a tokenizer of the tokenizers library.
        legacy: see above; None takes the flag of the tokenizer, which `load_tokenizer` sets.
        num_rows: number of tokens that the language model knows; None: all of the tokenizer.
        beginning: ids before every prompt that begins as the tokenizer does; None: see `beginning_of`.

    Raises:
        UserError: the tokenizer is not backed by the tokenizers library.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        legacy: bool | None = None,
        num_rows: int | None = None,
        beginning: Sequence[int] | None = None,
    ) -> None:
        if not hasattr(tokenizer, "backend_tokenizer"):
            raise UserError(f"tokenizer {type(tokenizer).__name__} is not backed by the tokenizers library")
        self.tokenizer = tokenizer
        self.num_rows = num_rows
        self.beginning = beginning_of(tokenizer) if beginning is None else _checked(beginning, len(tokenizer))
        self._fitted: dict[PromptFormat, PromptFormat] = {}
        self.backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self.backend.no_truncation()
        self.backend.no_padding()
        self.has_prefix = _writes_dummy_prefix(json.loads(self.backend.to_str()))
        self.legacy: bool = getattr(tokenizer, "legacy", True) if legacy is None else legacy
        self.added_ids = frozenset(self.backend.get_added_tokens_decoder())
        self.ids_of_pieces = self.backend.get_vocab() if self.has_prefix and not self.legacy else {}
        if self.has_prefix:
            # The normalizer of transformers omits the prefix if text starts with a space; sentencepiece does not.
            self.backend.normalizer = normalizers.Sequence(
                [normalizers.Prepend(UNDERLINE), normalizers.Replace(" ", UNDERLINE)]
            )
            self.backend.pre_tokenizer = pre_tokenizers.Sequence([])

    def __call__(self, text: str) -> Chunk:
        """Tokenise one chunk, without a beginning-of-sequence token.

        Raises:
            SampleProblem: a token that the language model does not know.
        """
        encoding = self.backend.encode(text, add_special_tokens=False)
        ids, starts = encoding.ids, _first_characters(encoding.offsets)
        if self.num_rows is not None and (highest := max(ids, default=0)) >= self.num_rows:
            raise SampleProblem(
                "token without a row",
                f"the token {self.backend.id_to_token(highest)!r} has id {highest}, but the language model has rows "
                f"for {self.num_rows} tokens; take the tokenizer that belongs to it",
            )
        if self.has_prefix and not self.legacy:
            return self._strip_prefixes(text, ids, starts)
        return Chunk(ids, starts)

    def fitted(self, prompt: PromptFormat) -> PromptFormat:
        """A prompt format as this tokenizer writes it: with its end token, its special texts single tokens.

        Raises:
            UserError: the tokenizer has no end token, or lacks a special text of the format.
        """
        if prompt not in self._fitted:
            self.ids_of(prompt.special)
            self._fitted[prompt] = prompt.with_eos(self.tokenizer.eos_token)
        return self._fitted[prompt]

    @cached_property
    def template(self) -> PromptFormat:
        """The tokenizer's chat template as a prompt format. Raises UserError if it cannot be one."""
        return template_format(self.tokenizer)

    def ids_of(self, texts: Sequence[str]) -> list[int]:
        """Ids of texts of which each is one token. Raises UserError for a text that is several."""
        found = [self(text).ids for text in texts]
        for text, ids in zip(texts, found, strict=True):
            if len(ids) != 1:
                raise UserError(
                    f"{text!r} is a part of the prompt format but no token of the tokenizer, which would spell it out; "
                    "use another prompt format, or a tokenizer that has it"
                )
        return [ids[0] for ids in found]

    def _strip_prefixes(self, text: str, ids: list[int], starts: list[int]) -> Chunk:
        kept = Chunk([], [])
        after_special = False
        for token, start in zip(ids, starts, strict=True):
            special = token in self.added_ids
            piece = self.backend.id_to_token(token) or ""
            if after_special and not special and text[start] != " " and piece.startswith(UNDERLINE):
                piece = piece.removeprefix(UNDERLINE)
                token = self.ids_of_pieces.get(piece, self.tokenizer.unk_token_id)
            if piece:
                kept.ids.append(token)
                kept.starts.append(start)
            after_special = special
        return kept


def _first_characters(offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Index of the first character of each token.

    Byte-level tokenizers may leave white space out of their offsets. A token of white space alone is empty then and
    seems to begin after itself; it begins where the token before it ends.
    """
    starts, last = [], 0
    for start, end in offsets:
        starts.append(min(start, last) if start == end else start)
        last = max(last, end)
    return starts


def _writes_dummy_prefix(backend: dict) -> bool:
    """Whether a tokenizer, given by its JSON, is a sentencepiece tokenizer that puts "▁" before text."""
    normalizer = backend.get("normalizer") or {}
    parts = normalizer.get("normalizers", [normalizer])
    pre_tokenizer = backend.get("pre_tokenizer") or {}
    if any(part.get("type") not in (None, "Prepend") and part.get("content") != UNDERLINE for part in parts):
        return False  # it changes more of the text than its spaces
    return any(part.get("type") == "Prepend" for part in parts) or (
        pre_tokenizer.get("type") == "Metaspace" and pre_tokenizer.get("prepend_scheme") != "never"
    )


@dataclass(frozen=True, slots=True)
class Placeholder:
    """The ids that replace a media tag.

    Args:
        stream: the tag is ``<stream>``.
        parts: for every stream that reads the file, its placeholder token id and how often it is written (the number of
            embeddings of the connector); empty if all these streams are switched off.
        num_placeholders: number of tokens that the tag adds to `max_length` before expansion; one per picture or frame
            in published systems. Parts after the first add nothing.
        layout: texts, and (index of a part, how many of its tokens), in the order in which they are written; None: the
            parts one after the other.
    """

    stream: str
    parts: tuple[tuple[int, int], ...]
    num_placeholders: int = 1
    layout: tuple[str | tuple[int, int], ...] | None = None

    def runs(self) -> Iterator[str | tuple[np.ndarray, ...]]:
        """What is written in the place of the tag: texts, and the units in which runs of media tokens are cut.

        Of each unit: its id, its part, how often the id is written, and its count. The first part is divided into
        `num_placeholders` units, as evenly as possible; a unit that text divides counts once. Shape: (units,) each
        """
        parts = self.parts or ((0, 0),)
        whole = tuple((part, tokens) for part, (_, tokens) in enumerate(parts))
        begins = np.arange(self.num_placeholders) * parts[0][1] // self.num_placeholders
        start = 0
        for run in self.layout or whole:
            if isinstance(run, str):
                yield run
                continue
            part, tokens = run
            points, counts = np.array([start]), np.zeros(1, int)
            if part == 0:
                end = start + tokens
                points = begins[(begins >= start) & ((begins < end) | (end == parts[0][1]))]
                counts = np.ones(len(points), int)
                if start not in points:
                    points, counts = np.insert(points, 0, start), np.insert(counts, 0, 0)
                start = end
            repeats = np.diff(points, append=points[0] + tokens)
            yield np.full(len(points), parts[part][0]), np.full(len(points), part), repeats, counts


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as ids.

    Args:
        input_ids: (L,) int64, placeholders expanded.
        labels: (L,) int64, -100 where not supervised.
        owners: (L,) int64, for every token the index among all parts of the placeholders, or NO_OWNER.
        media_tokens: for each part of each placeholder, the number of its tokens that were kept.
        masked: reason why no token is supervised although some should be, or None.
        truncated: whether tokens were cut off.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    owners: np.ndarray
    media_tokens: list[int]
    masked: str | None
    truncated: bool


def encode(
    turns: Sequence[Turn],
    prompt: PromptFormat,
    tokenizer: ChunkTokenizer,
    placeholders: Sequence[Placeholder],
    *,
    streams: Sequence[str],
    supervise: bool = True,
    open_answer: bool = False,
    max_length: int | None = None,
    max_expanded_length: int | None = None,
) -> Encoded:
    """Write turns as a prompt and tokenise it.

    Args:
        turns: the conversation.
        prompt: how it is written.
        tokenizer: tokenizer of the language model.
        placeholders: one for each tag, in the order of the tags in the text.
        streams: streams with a tag; any other ``<word>`` is text.
        supervise: label the answers. A sample in which answers and questions cannot be told apart is masked completely.
        open_answer: end with the role of the assistant.
        max_length: length limit before expansion, in which a media tag counts `Placeholder.num_placeholders`. If the
            prompt format has a `PromptFormat.cut`, whole pieces of the prompt are removed first; then the right end.
        max_expanded_length: length limit after expansion; the right end is cut off, also inside a media item.
    Raises:
        SampleProblem: turns, tags and media do not fit together.
    """
    prompt = tokenizer.fitted(prompt)
    pieces = prompt.render(turns, open_answer)
    text = "".join(piece.text for piece in pieces)
    supervised = np.repeat([piece.supervised for piece in pieces], [len(piece.text) for piece in pieces])
    _check_tags([tag[1] for tag in media_tags(text, streams)], [placeholder.stream for placeholder in placeholders])
    bos = tokenizer.beginning if prompt.bos is True else default_beginning(tokenizer.tokenizer) if prompt.bos else []

    text, supervised, media = _laid_out(text, supervised, placeholders, streams)

    def units_of(text: str) -> _Units:
        return _Units.of(text, bos, tokenizer, media, streams)

    masked = prompt.ambiguity(turns) if supervise else None
    units = units_of(text)
    shortened = False
    if prompt.cut is not None and max_length is not None and not open_answer and units.count > max_length:
        whole = text
        text, supervised = prompt.shortened(
            whole, supervised, len(turns), lambda shorter: units_of(shorter).count <= max_length
        )
        if shortened := text != whole:
            units = units_of(text)
            masked = (prompt.ambiguity_of(text, turns) if supervised.any() else CUT_OFF) if supervise else None

    labelled = supervised & (supervise and masked is None)
    learned = labelled[units.starts]
    if labelled.any() and prompt.also_supervised:
        learned |= np.isin(units.ids, tokenizer.ids_of(prompt.also_supervised))
    labels = np.where((units.starts != NO_TEXT) & learned, units.ids, IGNORED)
    kept = slice(None if max_length is None else int(np.searchsorted(np.cumsum(units.counts), max_length, "right")))
    expanded = [np.repeat(column[kept], units.repeats[kept]) for column in (units.ids, labels, units.owners)]
    input_ids, all_labels, owner = (column[:max_expanded_length] for column in expanded)
    truncated = shortened or len(units.ids[kept]) < len(units.ids) or len(expanded[0]) > len(input_ids)
    if masked is None and labelled.any() and not (all_labels != IGNORED).any():
        masked = CUT_OFF
    parts = sum(len(placeholder.parts) for placeholder in placeholders)
    media_tokens = np.bincount(owner[owner != NO_OWNER], minlength=parts)[:parts].tolist()
    return Encoded(input_ids, all_labels, owner, media_tokens, masked, truncated)


@dataclass(frozen=True, slots=True)
class _Units:
    """Units in which a prompt is cut: the tokens of its text, and the units of its media. Shape: (units,) int64 each

    Args:
        ids: token id.
        starts: index of the character at which the token begins, or NO_TEXT.
        owners: index among all parts of the placeholders, or NO_OWNER.
        repeats: how often the id is written.
        counts: number of tokens that the unit adds to a length limit before expansion.
    """

    ids: np.ndarray
    starts: np.ndarray
    owners: np.ndarray
    repeats: np.ndarray
    counts: np.ndarray

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    @classmethod
    def of(
        cls,
        text: str,
        bos: Sequence[int],
        tokenizer: ChunkTokenizer,
        media: Sequence[tuple[np.ndarray, ...]],
        streams: Sequence[str],
    ) -> "_Units":
        """Tokenise a text between its tags; tags and the units of media correspond in order."""
        columns = [_text_units(bos, [NO_TEXT] * len(bos))]
        start = 0
        for number, tag in enumerate([*media_tags(text, streams), None]):
            stop = tag.start() if tag else len(text)
            if stop > start:
                chunk = tokenizer(text[start:stop])
                columns.append(_text_units(chunk.ids, [start + begin for begin in chunk.starts]))
            if tag:
                ids, *others = media[number]
                columns.append((ids, np.full(len(ids), NO_TEXT), *others))
                start = tag.end()
        return cls(*(np.concatenate(column).astype(np.int64) for column in zip(*columns, strict=True)))


def _laid_out(
    text: str, supervised: np.ndarray, placeholders: Sequence[Placeholder], streams: Sequence[str]
) -> tuple[str, np.ndarray, list[tuple[np.ndarray, ...]]]:
    """The text with the layouts of its media in the place of their tags; every run of media tokens has a tag then.

    Returns:
        The text, which of its characters are supervised, and for each tag its units: columns of `_Units` without the
        starts.
    """
    texts: list[str] = []
    flags: list[np.ndarray] = []
    media: list[tuple[np.ndarray, ...]] = []
    start = first_part = 0
    for tag, placeholder in zip(media_tags(text, streams), placeholders, strict=True):
        texts.append(text[start : tag.start()])
        flags.append(supervised[start : tag.start()])
        for run in placeholder.runs():
            if isinstance(run, str):
                texts.append(run)
                flags.append(np.zeros(len(run), bool))
            else:
                ids, part, repeats, counts = run
                media.append((ids, first_part + part, repeats, counts))
                texts.append(tag[0])
                flags.append(supervised[tag.start() : tag.end()])
        start = tag.end()
        first_part += len(placeholder.parts)
    return "".join([*texts, text[start:]]), np.concatenate([*flags, supervised[start:]]), media


def _text_units(ids: Sequence[int], starts: Sequence[int]) -> tuple[np.ndarray, ...]:
    once = np.ones(len(ids), np.int64)
    return np.array(ids, np.int64), np.array(starts, np.int64), np.full(len(ids), NO_OWNER), once, once


def _check_tags(tags: Sequence[str], media: Sequence[str]) -> None:
    for stream in dict.fromkeys([*tags, *media]):
        if tags.count(stream) != media.count(stream):
            raise SampleProblem(
                "tags and media differ in number",
                f"{tags.count(stream)} <{stream}> in the text but {media.count(stream)} {stream} files",
            )
    if list(tags) != list(media):
        raise SampleProblem(
            "tags and media differ in order",
            f"tags stand as {', '.join(tags)} but the files as {', '.join(media)}; write the tags in the files' order",
        )
