from pathlib import Path

import numpy as np
import pytest
from tiny_tokenizers import tiny_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Turn
from vidtune.errors import UserError
from vidtune.processing.batch import IGNORED
from vidtune.processing.prompts.cutting import Cut
from vidtune.processing.prompts.known import with_roles
from vidtune.processing.tokenizer import ChunkTokenizer, load_tokenizer
from vidtune.processing.tokenizing import Encoded, Placeholder, encode

PROMPT = with_roles("two", "Be kind.")
IMAGE, VIDEO = Placeholder("image", ((900, 6),)), Placeholder("video", ((901, 10),), 4)
STREAMS = ("image", "video")


def conversation(*texts: str) -> list[Turn]:
    return [Turn(("user", "assistant")[k % 2], text) for k, text in enumerate(texts)]  # type: ignore[arg-type]


def run(tokenizer: LlamaTokenizer, texts: tuple[str, ...], *media: Placeholder, **options: object) -> Encoded:
    return encode(conversation(*texts), PROMPT, ChunkTokenizer(tokenizer), media, streams=STREAMS, **options)  # type: ignore[arg-type]


def supervised_text(tokenizer: LlamaTokenizer, encoded: Encoded) -> str:
    pieces = tokenizer.convert_ids_to_tokens([int(i) for i in encoded.labels if i != IGNORED])
    return "".join(pieces).replace("▁", " ")


def test_every_stretch_of_text_starts_with_the_dummy_prefix_even_before_a_space(tokenizer: LlamaTokenizer) -> None:
    pieces = tokenizer.convert_ids_to_tokens(ChunkTokenizer(tokenizer)(" a dog</s>USER").ids)
    assert pieces == ["▁", "▁a", "▁", "dog", "</s>", "▁US", "ER"]


def test_the_newer_flavour_strips_the_prefix_off_the_first_piece_instead_of_tokenising_anew() -> None:
    tokenizer = tiny_tokenizer(legacy=False)
    chunk = ChunkTokenizer(tokenizer)("USER</s>USER</s> USER</s>z")
    expected = ["▁US", "ER", "</s>", "US", "ER", "</s>", "▁", "▁US", "ER", "</s>", "z"]
    assert tokenizer.convert_ids_to_tokens(chunk.ids) == expected
    assert chunk.starts == [0, 2, 4, 8, 10, 12, 16, 16, 19, 21, 25]


def test_a_tokenizer_of_another_kind_is_used_as_it_is() -> None:
    backend = Tokenizer(models.WordLevel({"a": 0, "dog": 1, "?": 2}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")
    assert ChunkTokenizer(tokenizer)("a dog").ids == [0, 1]


@pytest.mark.parametrize("legacy", [True, False])
def test_labels_cover_exactly_the_answers(legacy: bool) -> None:
    tokenizer = tiny_tokenizer(legacy)
    encoded = run(tokenizer, ("<image>\nA dog?", "A dog. \n", "Who?", "  ER"), IMAGE)
    assert supervised_text(tokenizer, encoded) == " A dog. \n</s>   ER</s>"
    kept = encoded.labels != IGNORED
    assert (encoded.labels[kept] == encoded.input_ids[kept]).all()


def test_the_bos_token_stands_once_at_the_start(tokenizer: LlamaTokenizer) -> None:
    encoded = run(tokenizer, ("<image>A<image>B", "C"), IMAGE, IMAGE)
    assert encoded.input_ids.tolist().count(tokenizer.bos_token_id) == 1
    assert encoded.input_ids[0] == tokenizer.bos_token_id


def test_text_on_both_sides_of_media_is_tokenised_apart(tokenizer: LlamaTokenizer) -> None:
    chunks = ChunkTokenizer(tokenizer)
    encoded = run(tokenizer, ("A <video>dog", "B"), VIDEO)
    expected = [1, *chunks("Be kind. USER: A ").ids, *[901] * 10, *chunks("dog ASSISTANT: B</s>").ids]
    assert encoded.input_ids.tolist() == expected


def test_an_ambiguous_sample_is_masked_whole_and_says_why(tokenizer: LlamaTokenizer) -> None:
    encoded = run(tokenizer, ("A?", ""))
    assert (encoded.labels == IGNORED).all()
    assert encoded.masked == "empty answer"


def test_nothing_is_labelled_unless_asked_for(tokenizer: LlamaTokenizer) -> None:
    encoded = run(tokenizer, ("A?", "B"), supervise=False)
    assert (encoded.labels == IGNORED).all()
    assert encoded.masked is None


@pytest.mark.parametrize(
    ("text", "media", "message"),
    [
        ("<image><image> A?", (IMAGE,), "2 <image> in the text but 1 image items"),
        ("A?", (IMAGE,), "0 <image> in the text but 1 image items"),
        ("<video> A?", (), "1 <video> in the text but 0 video items"),
        ("<image><video> A?", (VIDEO, IMAGE), "tags stand as image, video but the files as video, image"),
    ],
)
def test_tags_must_fit_the_media(
    tokenizer: LlamaTokenizer, text: str, media: tuple[Placeholder, ...], message: str
) -> None:
    with pytest.raises(SampleProblem, match=message):
        run(tokenizer, (text, "B"), *media)


def test_any_other_word_in_angle_brackets_is_text(tokenizer: LlamaTokenizer) -> None:
    assert run(tokenizer, ("A <title>?", "B")).media_tokens == []


def test_before_expansion_a_frame_counts_one(tokenizer: LlamaTokenizer) -> None:
    whole = run(tokenizer, ("<video>A?", "B"), VIDEO)
    start = whole.input_ids.tolist().index(901)
    lengths = {frames: run(tokenizer, ("<video>A?", "B"), VIDEO, max_length=start + frames) for frames in range(5)}
    assert [encoded.media_tokens for encoded in lengths.values()] == [[0], [2], [5], [7], [10]]
    for encoded in lengths.values():
        assert (encoded.input_ids == whole.input_ids[: len(encoded.input_ids)]).all()
        assert encoded.truncated


def test_a_limit_after_expansion_cuts_inside_media(tokenizer: LlamaTokenizer) -> None:
    texts = ("<image><video>A?", "B")
    whole = run(tokenizer, texts, IMAGE, VIDEO)
    start = whole.input_ids.tolist().index(900)
    for limit in range(start, start + 17):
        encoded = run(tokenizer, texts, IMAGE, VIDEO, max_expanded_length=limit)
        assert (encoded.input_ids == whole.input_ids[:limit]).all()
        assert encoded.media_tokens == [np.sum(encoded.input_ids == 900), np.sum(encoded.input_ids == 901)]
        assert encoded.masked == "answers cut off by the length limit"


def test_a_limit_that_is_not_reached_changes_nothing(tokenizer: LlamaTokenizer) -> None:
    whole = run(tokenizer, ("<video>A?", "B"), VIDEO)
    same = run(tokenizer, ("<video>A?", "B"), VIDEO, max_length=10_000, max_expanded_length=len(whole.input_ids))
    assert (same.input_ids == whole.input_ids).all()
    assert not same.truncated


@pytest.mark.parametrize("legacy", [True, False])
def test_the_flavour_survives_saving(tmp_path: Path, legacy: bool) -> None:
    tiny_tokenizer(legacy).save_pretrained(tmp_path)
    assert ChunkTokenizer(load_tokenizer(tmp_path)).legacy is legacy


def test_a_folder_that_says_nothing_has_the_older_flavour(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(False)
    del tokenizer.init_kwargs["legacy"]
    tokenizer.save_pretrained(tmp_path)
    assert ChunkTokenizer(load_tokenizer(tmp_path)).legacy is True


def test_a_folder_without_tokenizer_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer"):
        load_tokenizer(tmp_path)


CUTTING = with_roles("two", "Be kind.", cut=Cut(r"From \d+ to \d+,", rejoined=True))
EVENTS = ("<video>\nWhat?", "From 00 to 08, a dog. From 09 to 17, a cow. From 18 to 26, a cat.")


def cut(tokenizer: LlamaTokenizer, texts: tuple[str, ...], *media: Placeholder, **options: object) -> Encoded:
    return encode(conversation(*texts), CUTTING, ChunkTokenizer(tokenizer), media, streams=STREAMS, **options)  # type: ignore[arg-type]


def test_a_prompt_that_fits_is_not_cut(tokenizer: LlamaTokenizer) -> None:
    whole = cut(tokenizer, EVENTS, VIDEO)
    counted = len(whole.input_ids) - VIDEO.parts[0][1] + VIDEO.num_placeholders
    fitting = cut(tokenizer, EVENTS, VIDEO, max_length=counted)
    assert (fitting.input_ids == whole.input_ids).all() and not fitting.truncated
    shorter = cut(tokenizer, EVENTS, VIDEO, max_length=counted - 1)
    assert shorter.truncated
    assert supervised_text(tokenizer, shorter) == " From 00 to 08, a dog. From 09 to 17, a cow.</s>"
    assert shorter.media_tokens == [10]


def test_a_prompt_of_which_nothing_supervised_is_left_says_so(tokenizer: LlamaTokenizer) -> None:
    encoded = cut(tokenizer, EVENTS, VIDEO, max_length=50)
    assert encoded.masked == "answers cut off by the length limit"
    assert (encoded.labels == IGNORED).all()
    assert encoded.input_ids[-1] == tokenizer.eos_token_id


def test_what_is_still_too_long_is_cut_at_a_token(tokenizer: LlamaTokenizer) -> None:
    encoded = cut(tokenizer, ("<video>\nWhat?", "A dog and a cow."), VIDEO, max_length=50)
    plain = run(tokenizer, ("<video>\nWhat?", "A dog and a cow."), VIDEO, max_length=50)
    assert (encoded.input_ids == plain.input_ids).all()
    first = cut(tokenizer, ("<video>\nWhat?", "A dog and a cow.", "Who?", "B."), VIDEO, max_length=40)
    assert first.truncated and first.input_ids[-1] != tokenizer.eos_token_id


def test_media_of_questions_that_are_cut_off_are_gone(tokenizer: LlamaTokenizer) -> None:
    texts = ("<image>\nA?", "B.", "<image><video>\nC?", "D.", "E?", "F.")
    encoded = cut(tokenizer, texts, IMAGE, IMAGE, VIDEO, max_length=60)
    assert encoded.media_tokens == [6, 0, 0]
    assert supervised_text(tokenizer, encoded) == " B.</s>"


def test_a_mistake_in_a_turn_that_is_cut_off_does_not_mask_the_others(tokenizer: LlamaTokenizer) -> None:
    texts = ("A?", "B.", "C?", "")
    assert cut(tokenizer, texts).masked == "empty answer"
    encoded = cut(tokenizer, texts, max_length=45)
    assert encoded.masked is None
    assert supervised_text(tokenizer, encoded) == " B.</s>"
    kept = cut(tokenizer, ("A?", "B ASSISTANT: C.", "D?", "E."), max_length=60)
    assert kept.masked == "role text in a turn"


def test_a_question_with_an_open_answer_is_not_cut(tokenizer: LlamaTokenizer) -> None:
    turns = conversation("A?", "B.", "From 10 to 20, C?")
    options = {"streams": STREAMS, "supervise": False, "open_answer": True, "max_length": 40}
    encoded = encode(turns, CUTTING, ChunkTokenizer(tokenizer), (), **options)  # type: ignore[arg-type]
    whole = encode(turns, PROMPT, ChunkTokenizer(tokenizer), (), **options)  # type: ignore[arg-type]
    assert (encoded.input_ids == whole.input_ids).all()


def test_a_token_that_the_language_model_does_not_know_is_refused_where_a_text_holds_it():
    """Published tokenizers may have a token for padding, for which the model has no row; texts do not contain it."""
    tokenizer = tiny_tokenizer(legacy=True)
    known = len(tokenizer)
    tokenizer.add_tokens(["<pad>"], special_tokens=True)
    chunks = ChunkTokenizer(tokenizer, num_rows=known)
    assert max(chunks("a dog").ids) < known
    with pytest.raises(SampleProblem, match=rf"'<pad>' has id {known}, but .* has rows for {known} tokens"):
        chunks("a <pad> dog")


@pytest.mark.parametrize("texts", [("a \ud800", "b"), ("a", "b \udfff c")])
def test_half_a_character_costs_its_sample(tokenizer: LlamaTokenizer, texts: tuple[str, ...]) -> None:
    with pytest.raises(SampleProblem, match="half a character is in its text"):
        run(tokenizer, texts)


def test_a_prompt_that_no_memory_holds_is_refused_before_it_is_written(tokenizer: LlamaTokenizer) -> None:
    huge = Placeholder("video", ((9, 10**12),))
    with pytest.raises(SampleProblem, match=r"the prompt has 1,000,000,000,\d\d\d tokens"):
        run(tokenizer, ("<video>What?", "A dog."), huge)
