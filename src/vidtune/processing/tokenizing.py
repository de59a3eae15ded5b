"""Tokenising of prompts: text is tokenised between media tags, labels follow token offsets, placeholders are expanded.

Published systems split the prompt at its media tags and tokenise each chunk on its own (`tokenizer_image_token` of
haotian-liu/LLaVA).

Legend: L tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Turn
from vidtune.processing.batch import IGNORED
from vidtune.processing.prompts.format import PromptFormat
from vidtune.processing.prompts.placing import media_tags
from vidtune.processing.tokenizer import ChunkTokenizer, default_beginning
from vidtune.spelling import HALF_A_CHARACTER

NO_OWNER = -1
"""Owner of a token that belongs to no media item: text."""
NO_TEXT = -1
"""Start character of a token that is not text: media, or the beginning-of-sequence token."""
MOST_TOKENS = 2**24
"""Longest prompt: far above the context of any language model, far below the memory of a machine."""
CUT_OFF = "answers cut off by the length limit"


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
        SampleProblem: turns, tags and media do not fit together, or there are more than `MOST_TOKENS` tokens.
    """
    prompt = tokenizer.fitted(prompt)
    pieces = prompt.render(turns, open_answer)
    text = "".join(piece.text for piece in pieces)
    if half := HALF_A_CHARACTER.search(text):
        near = text[max(0, half.start() - 12) : half.end()]
        raise SampleProblem("half a character", f"half a character is in its text, at the end of {near!r}")
    supervised = np.repeat([piece.supervised for piece in pieces], [len(piece.text) for piece in pieces])
    _check_tags([tag[1] for tag in media_tags(text, streams)], [placeholder.stream for placeholder in placeholders])
    bos = tokenizer.beginning if prompt.bos is True else default_beginning(tokenizer.tokenizer) if prompt.bos else []

    whole, supervised, media = _laid_out(text, supervised, placeholders, streams)
    units_of = partial(_Units.of, bos=bos, tokenizer=tokenizer, media=media, streams=streams)
    text, units = whole, units_of(whole)
    if prompt.cut is not None and max_length is not None and not open_answer and units.count > max_length:
        text, supervised = prompt.shortened(
            whole,
            supervised,
            sum(turn.role != "system" for turn in turns),
            lambda shorter: units_of(shorter).count <= max_length,
        )
        units = units_of(text) if text != whole else units
    masked = None
    if supervise and text == whole:
        masked = prompt.ambiguity(turns)
    elif supervise:
        masked = prompt.ambiguity_of(text, turns) if supervised.any() else CUT_OFF

    labelled = supervised & (supervise and masked is None)
    labels = _labels(units, labelled, prompt, tokenizer)
    (input_ids, labels, owners), cut = units.expanded(labels, max_length, max_expanded_length)
    if masked is None and labelled.any() and not (labels != IGNORED).any():
        masked = CUT_OFF
    parts = sum(len(placeholder.parts) for placeholder in placeholders)
    media_tokens = np.bincount(owners[owners != NO_OWNER], minlength=parts)[:parts].tolist()
    return Encoded(input_ids, labels, owners, media_tokens, masked, cut or text != whole)


def answer_ids(answer: str, prompt: PromptFormat, tokenizer: ChunkTokenizer) -> list[int]:
    """Ids of an answer behind a prompt with an open answer, without what ends it."""
    frame = tokenizer.fitted(prompt).assistant
    chunk = tokenizer(frame.before + frame.lead + answer)
    begin = len(frame.before)
    return [id for id, start in zip(chunk.ids, chunk.starts, strict=True) if start >= begin]


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

    def expanded(
        self, labels: np.ndarray, max_length: int | None, max_expanded_length: int | None
    ) -> tuple[list[np.ndarray], bool]:
        """Ids, labels and owners with every id written as often as it is repeated, and whether any were cut off.

        Args:
            labels: (units,), label of each unit.
            max_length, max_expanded_length: see `encode`.

        Returns:
            Three columns, (L,) int64 each; and the flag.

        Raises:
            SampleProblem: more than `MOST_TOKENS` ids.
        """
        kept = slice(None if max_length is None else int(np.searchsorted(np.cumsum(self.counts), max_length, "right")))
        if (tokens := int(self.repeats[kept].sum())) > MOST_TOKENS:
            raise SampleProblem("too many tokens", f"the prompt has {tokens:,} tokens; read fewer files or frames")
        columns = [np.repeat(column[kept], self.repeats[kept]) for column in (self.ids, labels, self.owners)]
        short = [column[:max_expanded_length] for column in columns]
        return short, len(self.ids[kept]) < len(self.ids) or len(short[0]) < len(columns[0])

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


def _labels(units: _Units, labelled: np.ndarray, prompt: PromptFormat, tokenizer: ChunkTokenizer) -> np.ndarray:
    """Label of each unit: its id if its first character is learned, or if it is a token that is learned as well.

    Args:
        labelled: which characters of the text are learned.
    """
    learned = labelled[units.starts]
    if labelled.any() and prompt.also_supervised:
        learned |= np.isin(units.ids, tokenizer.ids_of(prompt.also_supervised))
    return np.where((units.starts != NO_TEXT) & learned, units.ids, IGNORED)


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
                f"{tags.count(stream)} <{stream}> in the text but {media.count(stream)} {stream} items",
            )
    if list(tags) != list(media):
        raise SampleProblem(
            "tags and media differ in order",
            f"tags stand as {', '.join(tags)} but the files as {', '.join(media)}; write the tags in the files' order",
        )
