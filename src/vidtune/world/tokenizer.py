"""A small Llama-style tokenizer: sentencepiece BPE with byte fallback, ids unk 0, bos 1, eos 2."""

import io
import json
from collections.abc import Iterable
from pathlib import Path

VOCABULARY_SIZE = 640
_CONFIG = {
    "tokenizer_class": "LlamaTokenizer",
    "legacy": False,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<unk>",
}


def train_tokenizer(texts: Iterable[str], folder: Path, *, split_digits: bool = False) -> None:
    """Train on ``texts`` and write what ``AutoTokenizer`` loads; the same texts give the same files.

    Args:
        split_digits: make every digit a token of its own, as Llama's tokenizer does.
    """
    import sentencepiece

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
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps(_CONFIG, indent=1))
