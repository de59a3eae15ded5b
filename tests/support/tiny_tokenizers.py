"""A tokenizer of the sentencepiece kind, small enough to read."""

from transformers import LlamaTokenizer

CHARACTERS = "▁ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz.,:?!'\n#-0123456789"
# "▁USER" becomes ▁US|ER, "USER" alone becomes one piece: the two flavours of the tokenizer differ after "</s>".
MERGES = [("▁", "U"), ("▁U", "S"), ("E", "R"), ("U", "S"), ("US", "ER"), ("▁", "a"), ("d", "o"), ("do", "g")]


def tiny_tokenizer(legacy: bool) -> LlamaTokenizer:
    pieces = ["<unk>", "<s>", "</s>", *CHARACTERS, *("".join(pair) for pair in MERGES)]
    tokenizer = LlamaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=MERGES, legacy=legacy)
    tokenizer.init_kwargs["legacy"] = legacy
    return tokenizer
