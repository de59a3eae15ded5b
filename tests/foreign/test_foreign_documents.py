"""JSON and literals that others wrote: whatever is wrong becomes one error, with its line where that is known."""

import json
import math
import time

import pytest

from vidtune.errors import ForeignFileError
from vidtune.foreign.documents import (
    LONGEST_LITERAL,
    JsonError,
    next_json,
    parse_json,
    parse_literal,
    read_json,
    read_object,
    read_text,
    whole_characters,
)

DEEP = {"recursion": 100_000, "limit": 200, "one_more": 101}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1,\n "b" 2}', "line 2, column 6: not valid JSON (Expecting ':' delimiter)"),
        ("", "line 1, column 1: not valid JSON (Expecting value)"),
        ('"\0"', "line 1, column 2: not valid JSON (Invalid control character at)"),
        ("1" * 301, "not valid JSON (an integer of 301 digits (11111111...))"),
        ("1" * 5000, "not valid JSON (an integer of 5000 digits (11111111...))"),
        (b'{\n"a": "\xe9"}', "line 2: not valid JSON (not UTF-8 text)"),
        *(("[" * depth + "]" * depth, "more than 100 nested levels") for depth in DEEP.values()),
        *(('{"a":' * depth + "1" + "}" * depth, "more than 100 nested levels") for depth in DEEP.values()),
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_what_is_no_json(text, words):
    with pytest.raises(JsonError) as caught:
        parse_json(text)
    assert words in str(caught.value)
    if isinstance(text, str) and not text.startswith("1"):
        with pytest.raises(JsonError) as caught:
            next_json(f"\n{text}", 1)
        assert caught.value.reason in str(caught.value)


def test_a_hundred_levels_and_many_brackets_are_read():
    text = "[" * 100 + "]" * 100
    assert json.dumps(parse_json(text)) == text
    assert parse_json(json.dumps([[1]] * 1000)) == [[1]] * 1000


def test_the_line_of_a_record_is_that_of_its_file():
    with pytest.raises(JsonError, match="line 7, column 2") as caught:
        parse_json("{]", line=7)
    assert caught.value.line == 7
    with pytest.raises(JsonError, match="line 7: not valid JSON \\(more than"):
        parse_json("[" * 5000, line=7)


def test_a_value_within_a_text():
    assert next_json(f"[-{'1' * 5000}]", 0)[0] == [-math.inf]
    assert next_json('[{"a": 1}, 2]', 1) == ({"a": 1}, 9)
    with pytest.raises(JsonError, match="line 2, column 2: not valid JSON"):
        next_json("[1,\n[,", 4)


def test_a_key_that_stands_twice():
    assert parse_json('{"a": 1, "a": 2}') == {"a": 2}
    with pytest.raises(JsonError, match="the key 'a' stands twice in one object"):
        parse_json('{"a": 1, "a": 2}', keys_once=True)


def test_half_a_character_becomes_the_character_that_stands_for_what_is_unknown():
    assert whole_characters(parse_json('{"\\ud800": ["a\\udc00", 1, "\\ud83d\\ude00"]}')) == {
        "\ufffd": ["a\ufffd", 1, "😀"]
    }


@pytest.mark.parametrize(
    "text",
    [
        "[" * 150 + "]" * 150,
        "-" * 5000 + "1",
        "{" * 20000,
        "f(1)",
        "{[]: 1}",
        "{1: 1, 1: 2}",
        "a",
        "1\0",
        "",
        "(" * 150,
    ],
    ids=lambda text: ascii(text[:9]),
)
def test_what_is_no_literal(text):
    with pytest.raises(ValueError):
        parse_literal(text)


def test_a_long_literal_is_not_parsed():
    with pytest.raises(ValueError, match="a literal of 10,000,001 characters"):
        parse_literal(" " * LONGEST_LITERAL + "1")


def test_files_of_json_and_text(tmp_path):
    file = tmp_path / "file.json"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(file) == read_object(file) == {"a": 1}
    for content, words in [
        (b"{\n\n]", "line 3, column 1: not valid JSON"),
        (b"a\nb\xe9", "line 2: not UTF-8 text (byte 0xE9)"),
        (b"\x00\x00\x00\x20ftypisom", "not valid JSON"),
        (b"[1]", "expected an object, found list"),
    ]:
        file.write_bytes(content)
        with pytest.raises(ForeignFileError) as caught:
            read_object(file)
        assert str(caught.value).startswith(f"{file}: ")
        assert words in str(caught.value)
    with pytest.raises(ForeignFileError, match="4 bytes, more than the 2"):
        file.write_bytes(b"abcd")
        read_text(file, limit=2)
    with pytest.raises(ForeignFileError, match="4 bytes, more than the 2"):
        read_json(file, limit=2)


def test_a_deep_file_is_refused_at_once():
    started = time.process_time()
    with pytest.raises(JsonError):
        parse_json("[" * 10**6)
    assert time.process_time() - started < 1
