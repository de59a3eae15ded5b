"""Six small tokenizers of the kinds that language models have, and the plain tokenisation of text by each."""

import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from vidtune.processing.tokenizing import load_tokenizer
from vidtune.world.tokenizer import train_tokenizer

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
CHATML = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}
{{- '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
CORPUS = [
    "A chat about a dog, a cat and 3 < 4? USER: it's Human: Assistant: naïve. ASSISTANT: two  spaces ### Be kind.",
    "user assistant\n\nthe end\nof a video, 0.5s: 1.0s: the dog is a dog, the cat is a cat, and the end is the end...",
] * 3
GPT = Regex(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
Plain = Callable[[str], list[tuple[int, int]]]
"""Text -> (id, index of its first character) of every token."""


def sentencepieces(legacy: bool) -> tuple[PreTrainedTokenizerBase, Plain]:
    """Llama's kind; the plain tokenisation is that of the sentencepiece library, as transformers 4.31 called it."""
    with TemporaryDirectory() as folder:
        train_tokenizer(CORPUS, Path(folder))
        tokenizer = load_tokenizer(folder, legacy=legacy)
        model = (Path(folder) / "tokenizer.model").read_bytes()
    _finish(tokenizer)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)

    def segment(text: str) -> list[tuple[str, int, int]]:
        """Piece, id and first character of every piece of a text between special tokens."""
        marked = "▁" + text.replace(" ", "▁")  # what the pieces spell, with the dummy prefix
        characters = np.repeat(np.arange(len(marked)), [len(character.encode()) for character in marked])
        found, place = [], 0
        for token in pieces.encode(text, out_type=int):
            piece = pieces.id_to_piece(token)
            found.append((piece, token, max(0, int(characters[place]) - 1)))
            place += 1 if pieces.is_byte(token) else len(piece.encode())
        assert place == len(characters)
        return found

    def plain(text: str) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        start, after_special = 0, False
        for part in re.split("(" + "|".join(map(re.escape, ("</s>", *SPECIAL))) + ")", text):
            is_special = part in ("</s>", *SPECIAL)
            if is_special:
                found.append((tokenizer.convert_tokens_to_ids(part), start))
            elif part:
                tokens = segment(part)
                if after_special and not legacy and part[0] != " " and tokens[0][0].startswith("▁"):
                    bare = tokens[0][0][1:]
                    tokens[:1] = [(bare, pieces.piece_to_id(bare), 0)] if bare else []
                found += [(token, start + begin) for _, token, begin in tokens]
            if part:
                after_special = is_special
            start += len(part)
        return found

    return tokenizer, plain


def byte_pairs(bos: str | None, eos: str) -> tuple[PreTrainedTokenizerBase, Plain]:
    """Byte-level byte-pair encoding, as Qwen2 and Llama-3 have it."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(GPT, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    return _wrapped(backend, bos_token=bos, eos_token=eos)


def word_pieces() -> tuple[PreTrainedTokenizerBase, Plain]:
    """BERT's kind: white space is lost."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]"]))
    return _wrapped(backend, bos_token="[CLS]", eos_token="[SEP]", unk_token="[UNK]")


def unigrams() -> tuple[PreTrainedTokenizerBase, Plain]:
    """Unigrams whose white space is an underline, without one before the text; an end token of its own."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = decoders.Metaspace(prepend_scheme="never")
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=["<unk>"], unk_token="<unk>")
    backend.train_from_iterator(CORPUS, trainer)
    return _wrapped(backend, eos_token="<end>", unk_token="<unk>")


def _wrapped(backend: Tokenizer, **special: str | None) -> tuple[PreTrainedTokenizerBase, Plain]:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    _finish(tokenizer)

    def plain(text: str) -> list[tuple[int, int]]:
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [(token, start) for token, (start, _) in zip(found["input_ids"], found["offset_mapping"], strict=True)]

    return tokenizer, plain


def _finish(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    tokenizer.chat_template = CHATML


TOKENIZERS: dict[str, Callable[[], tuple[PreTrainedTokenizerBase, Plain]]] = {
    "sentencepiece": lambda: sentencepieces(legacy=True),
    "sentencepiece_newer": lambda: sentencepieces(legacy=False),
    "qwen2": lambda: byte_pairs(None, "<|endoftext|>"),
    "llama3": lambda: byte_pairs("<|begin_of_text|>", "<|end_of_text|>"),
    "wordpiece": word_pieces,
    "unigram": unigrams,
}
