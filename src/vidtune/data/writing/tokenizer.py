"""A small Llama-style tokenizer: sentencepiece BPE with byte fallback, ids unk 0, bos 1, eos 2."""

import io
import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vidtune.data.sources import DataSource
from vidtune.data.tables import AnnotationTable
from vidtune.errors import UserError

VOCABULARY_SIZE = 640
MODEL = "tokenizer.model"
DIGITS = ("0 1 2 3 4 5 6 7 8 9 . , : ? ! -",)
PROMPT_WEIGHT = 200
"""How often the texts of prompts count, which stand around every conversation."""
_TAG = re.compile(r"<\w+>")
_LONGEST = 1000
_CONFIG = {
    "tokenizer_class": "LlamaTokenizer",
    "legacy": False,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<unk>",
}


def make_tokenizer(
    sources: Sequence[DataSource],
    folder: Path,
    size: int = VOCABULARY_SIZE,
    *,
    texts: Sequence[str] = (),
    special: Sequence[str] = (),
) -> tuple[int, int]:
    """Train a tokenizer on the conversations of annotations; their media need not be there.

    Args:
        folder: new folder; one that holds files is refused.
        size: number of tokens, as far as the texts give so many; 259 of them are single bytes and ends.
        texts: what prompts write around the conversations.
        special: texts that become special tokens.

    Returns:
        the number of tokens, and of conversations.

    Raises:
        UserError: annotations that are missing or broken, no usable conversation, a size that does not fit.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists already; choose another folder or remove it")
    with tempfile.TemporaryDirectory(prefix="vidtune-") as cache:
        table = AnnotationTable.open(sources, Path(cache))
        found = [table.annotation(index) for index in range(len(table))]
    usable = [one for one in found if one.problem is None and one.turns]
    if not usable:
        raise UserError(f"{', '.join(str(one.annotations) for one in sources)}: no conversation can be used")
    spoken = [piece for one in usable for turn in one.turns for piece in _pieces(_TAG.sub(" ", turn.text))]
    written = [text for text in (*texts, *DIGITS) for _ in range(PROMPT_WEIGHT)]
    try:
        train_tokenizer([*spoken, *written], folder, split_digits=True, special=special, size=size)
    except RuntimeError as error:  # of sentencepiece
        reason = " ".join(str(error).split())[-200:]
        raise UserError(f"no tokenizer of {size} tokens can be made ({reason}); choose another size") from None
    return _count(folder), len(usable)


def _pieces(text: str) -> list[str]:
    """A text in parts that are short enough for sentencepiece, which would leave longer ones out."""
    return [text[begin : begin + _LONGEST] for begin in range(0, len(text), _LONGEST)]


def _count(folder: Path) -> int:
    import sentencepiece

    return int(sentencepiece.SentencePieceProcessor(model_file=str(folder / MODEL)).get_piece_size())


def train_tokenizer(
    texts: Iterable[str],
    folder: Path,
    *,
    split_digits: bool = False,
    special: Sequence[str] = (),
    size: int = VOCABULARY_SIZE,
) -> None:
    """Train on ``texts`` and write what ``AutoTokenizer`` loads; the same texts give the same files.

    Args:
        split_digits: make every digit a token of its own, as Llama's tokenizer does.
        special: texts that become special tokens. With them no text gets a space in front, so that a line end between
            two of them is one token.
        size: largest number of tokens.
    """
    import sentencepiece

    further: dict[str, Any] = {}
    config: dict[str, Any] = dict(_CONFIG)
    if special:
        further = {"user_defined_symbols": list(special), "add_dummy_prefix": False}
        config |= {"extra_special_tokens": list(special), "add_prefix_space": False}
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=size,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=split_digits,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
        **further,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL).write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
