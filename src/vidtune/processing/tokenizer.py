"""The tokenizer of a model: loaded from its files, and the ids of chunks of text as published code computes them.

Published systems tokenise each chunk of a prompt with the sentencepiece tokenizer of transformers 4.31. Every chunk,
and every text after a special token, starts with the dummy prefix of sentencepiece. transformers 5 no longer has this
tokenizer; `ChunkTokenizer` computes the same ids with the tokenizers library.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from vidtune.data.problems import SampleProblem
from vidtune.errors import ForeignFileError, UserError
from vidtune.foreign.documents import SETTINGS_LIMIT, read_object
from vidtune.foreign.files import reading, regular
from vidtune.processing.prompts.chat_template import template_format
from vidtune.processing.prompts.format import PromptFormat
from vidtune.spelling import HALF_A_CHARACTER

UNDERLINE = "▁"
"""Character that sentencepiece writes for a space."""
WORD, END, SPECIAL = 0, 1, 2
"""Kinds of tokens: a part of a sentence; one that also ends it; none of a sentence."""
_ENDS = (".", "!", "?", ";", "。", "！", "？", "；", "\n")
PROCESSOR, OUR_PROCESSOR = "processor_config.json", "VideoLMProcessor"
"""File of a processor, which tells how its tokenizer begins a text, and the class of ours."""
CONFIG = "config.json"
SETTINGS = "tokenizer_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    SETTINGS,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    CONFIG,
)


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
    bare = (folder / "tokenizer.model").is_file() and not (folder / SETTINGS).is_file()
    for name in TOKENIZER_FILES:
        if (folder / name).exists() and not (name == CONFIG and config is not None):
            regular(folder / name, limit=SETTINGS_LIMIT)
    known = {} if bare or config is None else {"config": config}
    try:
        with reading(path):
            tokenizer = (LlamaTokenizer if bare else AutoTokenizer).from_pretrained(
                str(path), **known, trust_remote_code=False
            )
            settings = get_tokenizer_config(str(path))
            require_writable(settings, folder)
            if legacy is None:
                legacy = bool(settings.get("legacy", True))
            # Also in init_kwargs, because transformers 5 saves only those.
            tokenizer.legacy = tokenizer.init_kwargs["legacy"] = legacy
            tokenizer("a")  # what is cut off or half copied fails here
    except ForeignFileError as error:
        raise UserError(f"{path}: no tokenizer can be read from there: {_cause(error)}") from error
    processor = folder / PROCESSOR
    if processor.is_file() and "streams" in (saved := read_object(processor)):
        settings = saved
    if "beginning" in settings or "streams" in settings or settings.get("processor_class") == OUR_PROCESSOR:
        tokenizer.beginning = settings.get("beginning", default_beginning(tokenizer))
    return tokenizer


def require_writable(settings: Any, folder: Path) -> None:
    """Raise UserError where settings of a tokenizer hold half a character (a lone surrogate): no file can hold it."""
    text = json.dumps(settings, ensure_ascii=False, default=str)
    if half := HALF_A_CHARACTER.search(text):
        near = text[max(0, half.start() - 30) : half.end()]
        raise UserError(f"{folder / SETTINGS}: half a character stands in it, at the end of {near!r}; copy it again")


def _cause(error: ForeignFileError) -> str:
    """First line of what the library says."""
    reason = next(iter(str(error.__cause__ or error.reason).splitlines()), "") or type(error.__cause__).__name__
    if "custom code" in reason:
        return "it needs the code that lies beside it, which is never run; take a tokenizer of transformers"
    return reason


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
            self._fitted[prompt] = prompt.with_eos(self.tokenizer.eos_token, self.tokenizer.name_or_path)
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


def token_kinds(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> np.ndarray:
    """Returns WORD, END or SPECIAL for each token of a vocabulary: (vocabulary,) uint8."""
    kinds = np.full(vocabulary, WORD, np.uint8)
    for token in range(min(len(tokenizer), vocabulary)):
        if tokenizer.decode([token]).endswith(_ENDS):
            kinds[token] = END
    special = [token for token in tokenizer.all_special_ids if token < vocabulary]
    kinds[special] = SPECIAL
    return kinds


def sentences(ids: Iterable[int], kinds: np.ndarray) -> list[list[int]]:
    """Returns the tokens of each sentence of a text; what follows the last end is a sentence too.

    Args:
        ids: token ids.
        kinds: see :func:`token_kinds`, (vocabulary,).
    """
    found: list[list[int]] = [[]]
    for token in ids:
        if kinds[token] != SPECIAL:
            found[-1].append(token)
        if kinds[token] == END:
            found.append([])
    return [tokens for tokens in found if tokens]
