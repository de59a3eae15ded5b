"""Our caption tokeniser: its own rules, and against the published program where that is installed."""

import random

import pytest

from vidtune.evaluation.metrics.programs.java import TOKENIZER_JAR, java_problem
from vidtune.evaluation.metrics.tokenizer import tokenize


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", ""),
        (" . \t ", ""),
        ("The CAMERA pans, then stops.", "the camera pans then stops"),
        ("I can't; she'd've won't they're.", "i ca n't she 'd 've wo n't they 're"),
        ("it\u2019s \u201cJohn\u2019s\u201d, don\u2019t", "it 's john 's do n't"),
        ("O'Neil's ma'am, y'all o'clock", "o'neil 's ma'am y' all o'clock"),
        ("the kids' dogs' '70s", "the kids dogs '70s"),
        ("rock 'n' roll, rock'n'roll, get 'em, 'tis", "rock 'n' roll rock 'n' roll get 'em 't is"),
        ("Mr. and Mrs. St. John Jr. etc.", "mr. and mrs. st. john jr. etc."),
        ("at 5 p.m. in the U.S. No. 5, no. Five", "at 5 p.m. in the u.s. no. 5 no five"),
        ("vitamin C. The end", "vitamin c the end"),
        ("1,000 x 5.5 = 10:30, -5 .5 1/2 \xbd 3rd", "1,000 x 5.5 = 10:30 -5 .5 1/2 1/2 3rd"),
        ("$5 US$5 \xa35 \u20ac5 50%", "$ 5 us$ 5 # 5 $ 5 50 %"),
        ("a 20-year-old well-dressed DJ--a - b", "a 20-year-old well-dressed dj a b"),
        ("(a) [b] {c}", "-lrb- a -rrb- -lsb- b -rsb- -lcb- c -rcb-"),
        ("wait... what\u2026 ok!! no?! yes!", "wait what ok !! no ?! yes"),
        ("me@x.com www.a.org/b?c=d. http://a.b/c, @me #tag", "me@x.com www.a.org/b?c=d http://a.b/c @me #tag"),
        ("na\xefve \u65e5\u672c \U0001f600 \u266a x\u2014y", "na\xefve \u65e5\u672c \u266a x y"),
        ("one\r\ntwo\u2028three\x0bfour", "one two three four"),
        (":) <3 <b>bold</b> a<b", ":-rrb- < 3 <b> bold </b> a < b"),
    ],
)
def test_tokens(text, tokens):
    assert tokenize([text, "end"])[0] == tokens
    if java_problem(TOKENIZER_JAR) is None:
        assert tokenize([text, "end"], "java")[0] == tokens


def test_texts_do_not_mix():
    texts = ["a (b", "", "c) d\ne", "", "we've"]
    assert tokenize(texts) == ["a -lrb- b", "", "c -rrb- d e", "", "we ve"]  # the end of the input, as in the original
    assert tokenize([*texts, "end"])[4] == "we 've"
    assert tokenize([]) == []


def test_a_long_answer_without_blanks_is_read_in_time():
    for unit in ("a.", "a-", "a'", "1,", "http://", "<a ", "\u00e9!", "@a", "a/"):
        assert tokenize([unit * 3000, "end"])[1] == "end"


WORDS = """
a The man woman dog she It is are was and while with camera scene shows SUBSCRIBE music narrator close-up mid-air
T-shirt TV U.S. Dr. Mrs. John's No. vs. etc. a.m. 5 10 3rd 1990s 1,000 5.5 $5 50% #1 & isn't don't can't it's they're
we've I'll I'm let's o'clock ma'am cannot gonna 'cause 'em James' kids' 20-year-old and/or YouTube 1/2 10:30 7pm naïve
café 日本 “quoted” it’s ♪ 😀 ° ½
"""
MARKS = [" "] * 12 + [", ", ". ", "! ", "? ", "; ", ": ", "... ", " - ", " -- ", " (", ") ", ' "', '" ', " '", "' "]


def test_made_up_captions_are_read_as_by_the_published_program():
    problem = java_problem(TOKENIZER_JAR)
    if problem:
        pytest.skip(f"tokenizer java: {problem}")
    draw, words = random.Random(0), WORDS.split()
    texts = [
        # The program looks past the end of a line ("No." and "5" on the next one); the last word keeps it from that.
        "".join(draw.choice(words) + draw.choice(MARKS) for _ in range(draw.randint(3, 15))) + " end"
        for _ in range(3000)
    ]
    pairs = zip(texts, tokenize(texts), tokenize(texts, "java"), strict=True)
    assert [one for one in pairs if one[1] != one[2]] == []
