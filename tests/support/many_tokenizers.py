"""Small tokenizers of the kinds that language models have, and the plain tokenisation of text by each."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from vidtune.data.writing.tokenizer import train_tokenizer
from vidtune.processing.tokenizer import load_tokenizer

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


def byte_pairs(
    bos: str | None, eos: str, begins: tuple[str, ...] = (), trims: bool | None = None
) -> tuple[PreTrainedTokenizerBase, Plain]:
    """Byte-level byte-pair encoding, as Qwen2 and Llama-3 have it.

    Args:
        begins: special tokens that it puts before a text.
        trims: whether it leaves white space out of its offsets, as GPT-2 and Phi do; None: it does nothing to them.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(GPT, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    parts = [] if trims is None else [processors.ByteLevel(trim_offsets=trims)]
    if begins:
        backend.add_special_tokens(list(begins))
        ids = [(token, backend.token_to_id(token)) for token in begins]
        parts.append(processors.TemplateProcessing(single=" ".join([*begins, "$A"]), special_tokens=ids))
    if parts:
        backend.post_processor = processors.Sequence(parts)
    return _wrapped(backend, bos_token=bos, eos_token=eos)


def underlines(prepend: str, begins: str | None = None) -> tuple[PreTrainedTokenizerBase, Plain]:
    """Byte-pair encoding of words that begin with an underline; without one before the text, as Gemma has it, or with
    one, beside a normalizer that changes more than spaces, as XGLM has it."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)  # type: ignore[arg-type]
    backend.decoder = decoders.Metaspace(prepend_scheme=prepend)  # type: ignore[arg-type]
    if prepend != "never":
        backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<bos>", "</s>"]))
    if begins:
        ids = [(begins, backend.token_to_id(begins))]
        backend.post_processor = processors.TemplateProcessing(single=f"{begins} $A", special_tokens=ids)
    return _wrapped(backend, bos_token="<bos>", eos_token="</s>", unk_token="<unk>")


def flagged(adds: bool) -> tuple[PreTrainedTokenizerBase, Plain]:
    """A tokenizer of Llama's kind whose settings say whether it begins a text with its token."""
    tokenizer, plain = sentencepieces(legacy=False)
    tokenizer.add_bos_token = tokenizer.init_kwargs["add_bos_token"] = adds
    return tokenizer, plain


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

    whole = Tokenizer.from_str(json.dumps(json.loads(tokenizer.backend_tokenizer.to_str()) | {"post_processor": None}))

    def plain(text: str) -> list[tuple[int, int]]:
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        places = zip(found["offset_mapping"], whole.encode(text, add_special_tokens=False).offsets, strict=True)
        # A token of white space alone has no place of its own where white space is left out of the offsets.
        starts = [whole if start == end else start for (start, end), (whole, _) in places]
        return list(zip(found["input_ids"], starts, strict=True))

    return tokenizer, plain


def _finish(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    tokenizer.chat_template = CHATML


TOKENIZERS: dict[str, Callable[[], tuple[PreTrainedTokenizerBase, Plain]]] = {
    "sentencepiece": lambda: sentencepieces(legacy=True),
    "sentencepiece_newer": lambda: sentencepieces(legacy=False),
    "qwen2": lambda: byte_pairs(None, "<|endoftext|>"),
    "llama3": lambda: byte_pairs("<|begin_of_text|>", "<|end_of_text|>", ("<|begin_of_text|>",), trims=True),
    "phi": lambda: byte_pairs("<|endoftext|>", "<|endoftext|>", trims=True),
    "qwen_with_bos": lambda: byte_pairs("<|endoftext|>", "<|endoftext|>", trims=False),
    "opt": lambda: byte_pairs("</s>", "</s>", ("</s>",), trims=True),
    "glm": lambda: byte_pairs(None, "<|endoftext|>", ("[gMASK]", "<sop>")),
    "gemma": lambda: underlines("never", "<bos>"),
    "xglm": lambda: underlines("always", "</s>"),
    "llama_flagged": lambda: flagged(True),
    "llama_without_bos": lambda: flagged(False),
    "wordpiece": word_pieces,
    "unigram": unigrams,
}

BEGINNINGS: dict[str, tuple[str, ...]] = {
    "sentencepiece": ("<s>",),
    "sentencepiece_newer": ("<s>",),
    "llama3": ("<|begin_of_text|>",),
    "opt": ("</s>",),
    "glm": ("[gMASK]", "<sop>"),
    "gemma": ("<bos>",),
    "xglm": ("</s>",),
    "llama_flagged": ("<s>",),
}
"""Tokens that each of them puts before a text; the others put none there."""
