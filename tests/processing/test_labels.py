"""Labels of random conversations equal those of a plain tokenisation of the rendered text, for many tokenizers.

The plain way: the text of every run between media is tokenised by the tokenizer as it is; a token is supervised if the
character at which it begins is. Conversations are drawn with fixed seeds.
"""

import random
from pathlib import Path

import numpy as np
import pytest
from many_tokenizers import BEGINNINGS, TOKENIZERS, Plain
from transformers import PreTrainedTokenizerBase

from vidtune.data.sample import Turn
from vidtune.processing.batch import IGNORED
from vidtune.processing.processor import VideoLMProcessor
from vidtune.processing.prompts.format import AnswerFrame, PromptFormat
from vidtune.processing.prompts.known import chatml, llama3, with_roles
from vidtune.processing.prompts.placing import media_tags
from vidtune.processing.tokenizer import ChunkTokenizer, beginning_of, load_tokenizer
from vidtune.processing.tokenizing import NO_OWNER, Placeholder, encode

STREAMS = ("image", "video")
PLAIN = ("dog", "a cat", "USER", "ASSISTANT", " two  spaces", "3 < 4?", "it's", "...")
ODD = ("\n", "\t", "naïve", "犬", "🐕\u200d🦺", "</p>")
WORDS = (*PLAIN, *ODD)
"""Parts of turns; none of them is a border of a turn in any format."""
LAYOUTS = ((), ("Z", (0, 5), " z"), ("0.5s: ", (0, 2), "1.0s:", (0, 3)))
CONVERSATIONS = 10


def conversation(rng: random.Random) -> tuple[list[Turn], list[Placeholder]]:
    """A conversation of one to four rounds; media stand anywhere in its questions, and sometimes in its answers."""
    turns, media = [], []
    for number in range(2 * rng.randint(1, 4)):
        words = [rng.choice(WORDS) for _ in range(rng.randint(1, 6))] + ["end"]
        if rng.random() < (0.2 if number % 2 else 0.6):
            stream, place = rng.choice(STREAMS), rng.randint(0, len(words))
            words.insert(place, f"<{stream}>")
            media.append(Placeholder(stream, ((90000 + STREAMS.index(stream), 5),), 2, rng.choice(LAYOUTS)))
        turns.append(Turn("assistant" if number % 2 else "user", rng.choice(("", " ")).join(words)))
    return turns, media


def plainly(
    beginning: list[int], plain: Plain, prompt: PromptFormat, turns: list[Turn], media: list[Placeholder]
) -> tuple[list[int], list[int]]:
    """Ids and labels by a tokenisation of every run of text between media."""
    pieces = prompt.render(turns)
    text = "".join(piece.text for piece in pieces)
    flags = [piece.supervised for piece in pieces for _ in piece.text]
    ids = list(beginning) if prompt.bos else []
    labels = [IGNORED] * len(ids)
    run, supervised = "", list[bool]()

    def close() -> None:
        nonlocal run, supervised
        for token, start in plain(run) if run else ():
            ids.append(token)
            labels.append(token if supervised[start] else IGNORED)
        run, supervised = "", []

    start = 0
    for tag, placeholder in zip(media_tags(text, STREAMS), media, strict=True):
        run += text[start : tag.start()]
        supervised += flags[start : tag.start()]
        for part in placeholder.layout or ((0, 5),):
            if isinstance(part, str):
                run += part
                supervised += [False] * len(part)
            else:
                close()
                ids += [placeholder.parts[0][0]] * part[1]
                labels += [IGNORED] * part[1]
        start = tag.end()
    run += text[start:]
    supervised += flags[start:]
    close()
    return ids, labels


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokens(request: pytest.FixtureRequest) -> tuple[PreTrainedTokenizerBase, Plain]:
    tokenizer, plain = TOKENIZERS[request.param]()
    tokenizer.begins = tokenizer.convert_tokens_to_ids(list(BEGINNINGS.get(request.param, ())))
    return tokenizer, plain


FORMATS = {
    "roles": with_roles("roles", "Be kind."),
    "one_separator": with_roles("one", "Be kind.", "Human", "Assistant", ("###", "###")),
    "chatml": chatml("chatml", "Be kind."),
    "llama3": llama3("llama3"),
    "template": None,
}


@pytest.mark.parametrize("name", FORMATS)
def test_labels_are_those_of_the_plain_text(name: str, tokens: tuple[PreTrainedTokenizerBase, Plain]) -> None:
    tokenizer, plain = tokens
    chunks = ChunkTokenizer(tokenizer)
    prompt = chunks.fitted(FORMATS[name] or chunks.template)
    beginning, supervised = tokenizer.begins, 0
    assert chunks.beginning == beginning
    for seed in range(CONVERSATIONS):
        turns, media = conversation(random.Random(f"{name} {seed}"))
        found = encode(turns, prompt, chunks, media, streams=STREAMS)
        ids, labels = plainly(beginning, plain, prompt, turns, media)
        assert found.masked is None, (seed, found.masked, turns)
        assert found.input_ids.tolist() == ids, (seed, turns)
        assert found.labels.tolist() == labels, (seed, turns)
        assert np.count_nonzero(found.owners != NO_OWNER) == 5 * len(media)
        supervised += np.count_nonzero(found.labels != IGNORED)
    assert supervised > 10 * CONVERSATIONS


@pytest.mark.parametrize("name", FORMATS)
def test_an_answer_is_supervised_up_to_its_end_and_no_further(
    name: str, tokens: tuple[PreTrainedTokenizerBase, Plain]
) -> None:
    tokenizer, _ = tokens
    chunks = ChunkTokenizer(tokenizer)
    prompt = chunks.fitted(FORMATS[name] or chunks.template)
    turns = [Turn("user", "dog"), Turn("assistant", "cat"), Turn("user", "end"), Turn("assistant", "dog")]
    found = encode(turns, prompt, chunks, (), streams=STREAMS)
    text = tokenizer.decode(found.labels[found.labels != IGNORED], clean_up_tokenization_spaces=False)
    end = prompt.assistant.end
    assert text.replace(" ", "") == f"cat{end}dog{end}"
    if prompt.assistant.end in tokenizer.get_added_vocab():
        assert np.count_nonzero(found.labels == tokenizer.convert_tokens_to_ids(end)) == 2


@pytest.mark.parametrize("name", ["qwen2", "llama3", "phi", "qwen_with_bos", "opt", "glm"])
def test_an_answer_keeps_every_blank(name: str) -> None:
    """Also the last one after a special token, of which byte-level tokenizers say that it begins after itself."""
    tokenizer, _ = TOKENIZERS[name]()
    chunks = ChunkTokenizer(tokenizer)
    for end in ("<|im_end|>", "!", ""):
        prompt = PromptFormat("bare", assistant=AnswerFrame(end=end, supervised=()))
        for text in (
            "dog <|eot_id|> ",
            " dog  <|eot_id|>a",
            "<|im_start|>",
            "dog \n",
            "a  cat",
            " ",
            "dog <|eot_id|>  ",
        ):
            turns = [Turn("user", "?"), Turn("assistant", text)]
            found = encode(turns, prompt, chunks, (), streams=STREAMS)
            assert tokenizer.decode(found.labels[found.labels != IGNORED]) == text
            assert tokenizer.decode(found.input_ids[len(chunks.beginning) :]) == f"?{text}{end}"


def test_beginnings_are_saved_and_those_of_before_are_kept(processor: VideoLMProcessor, tmp_path: Path) -> None:
    """A processor says how its prompts begin where that is not by the beginning-of-sequence token."""
    tokenizer, _ = TOKENIZERS["phi"]()
    new = VideoLMProcessor(tokenizer, processor.system, processor.streams, beginning=beginning_of(tokenizer))
    before = VideoLMProcessor(tokenizer, processor.system, processor.streams)
    for made, beginning in ((new, []), (before, [tokenizer.bos_token_id])):
        assert made.chunk_tokenizer.beginning == beginning
        made.save_pretrained(tmp_path)
        assert VideoLMProcessor.from_pretrained(tmp_path).chunk_tokenizer.beginning == beginning
        assert beginning_of(load_tokenizer(tmp_path)) == beginning
    tokenizer.init_kwargs["beginning"] = []  # as exports to published formats write it
    tokenizer.save_pretrained(tmp_path / "alone")
    assert beginning_of(load_tokenizer(tmp_path / "alone")) == []
