"""Append-only files: torn ends, second writers, broken lines."""

import pytest

from vidtune.errors import UserError
from vidtune.machine.records import JsonLines, read_records, write_atomically


def test_a_torn_last_line_is_ignored_and_cut_off_before_writing(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"n": 0}\n{"n": 1}\n{"n": 2, "te')
    assert [record["n"] for record in read_records(path)] == [0, 1]
    with JsonLines(path) as lines:
        lines.append({"n": 3})
    assert path.read_bytes() == b'{"n": 0}\n{"n": 1}\n{"n": 3}\n'


def test_a_file_of_one_torn_line_becomes_empty(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"x" * 200_000)
    JsonLines(path).close()
    assert path.read_bytes() == b""


def test_a_second_writer_is_refused(tmp_path):
    with JsonLines(tmp_path / "lines.jsonl"), pytest.raises(UserError, match=r"lines\.jsonl: another process"):
        JsonLines(tmp_path / "lines.jsonl")


def test_a_shared_file_takes_several_writers_and_keeps_torn_lines_apart(tmp_path):
    path = tmp_path / "cache.jsonl"
    path.write_bytes(b'{"n": 0}\n{"n": ')
    with JsonLines(path, shared=True) as first, JsonLines(path, shared=True) as second:
        first.append({"n": 1})
        second.append({"n": 2})
    assert [record["n"] for record in read_records(path, skip_broken=True)] == [0, 1, 2]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"n": 0}\n{"n": }\n{"n": 2}\n')
    with pytest.raises(UserError, match=r"lines\.jsonl: line 2, column 7"):
        list(read_records(path))


def test_any_text_survives_writing_and_reading(tmp_path):
    texts = ["ünïcode \u2028 line", "half a surrogate \ud83d", 'quote " \\ \n newline', ""]
    with JsonLines(tmp_path / "lines.jsonl") as lines:
        for text in texts:
            lines.append({"text": text})
    assert [record["text"] for record in read_records(tmp_path / "lines.jsonl")] == texts


def test_an_atomic_write_leaves_nothing_else_behind(tmp_path):
    write_atomically(tmp_path / "a" / "run.json", "one")
    write_atomically(tmp_path / "a" / "run.json", "two")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["run.json"]
    assert (tmp_path / "a" / "run.json").read_text() == "two"
