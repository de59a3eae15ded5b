"""A small Llama-style tokenizer: sentencepiece BPE with byte fallback, ids unk 0, bos 1, eos 2."""

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

VOCABULARY_SIZE = 640
_CONFIG = {
    "tokenizer_class": "LlamaTokenizer",
    "legacy": False,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<unk>",
}


def train_tokenizer(
    texts: Iterable[str], folder: Path, *, split_digits: bool = False, special: Sequence[str] = ()
) -> None:
    """Train on ``texts`` and write what ``AutoTokenizer`` loads; the same texts give the same files.

    Args:
        split_digits: make every digit a token of its own, as Llama's tokenizer does.
        special: texts that become special tokens. With them no text gets a space in front, so that a line end between
            two of them is one token.
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
        vocab_size=VOCABULARY_SIZE,
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
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
