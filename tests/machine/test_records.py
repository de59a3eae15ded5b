"""Append-only files: torn ends, second writers, broken lines."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from vidtune.errors import UserError
from vidtune.machine.records import RecordFollower, RecordWriter, read_records, read_values, write_records


def test_a_torn_last_line_is_ignored_and_cut_off_before_writing(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"n": 0}\n{"n": 1}\n{"n": 2, "te')
    assert [record["n"] for record in read_records(path)] == [0, 1]
    with RecordWriter(path) as lines:
        lines.append({"n": 3})
    assert path.read_bytes() == b'{"n": 0}\n{"n": 1}\n{"n": 3}\n'


def test_a_file_of_one_torn_line_becomes_empty(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"x" * 200_000)
    RecordWriter(path).close()
    assert path.read_bytes() == b""


def test_a_second_writer_is_refused(tmp_path):
    with RecordWriter(tmp_path / "lines.jsonl"), pytest.raises(UserError, match=r"lines\.jsonl: another process"):
        RecordWriter(tmp_path / "lines.jsonl")


def test_a_shared_file_takes_several_writers_and_keeps_torn_lines_apart(tmp_path):
    path = tmp_path / "cache.jsonl"
    path.write_bytes(b'{"n": 0}\n{"n": ')
    with RecordWriter(path, shared=True) as first, RecordWriter(path, shared=True) as second:
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
    with RecordWriter(tmp_path / "lines.jsonl") as lines:
        for text in texts:
            lines.append({"text": text})
    assert [record["text"] for record in read_records(tmp_path / "lines.jsonl")] == texts


RECORDS = [{"n": 0, "text": "plain"}, {"n": 1, "text": "é \u2028 \ud83d"}, {"n": 2, "list": [1, {"x": None}]}, {}]


def whole_before(content):
    """The records whose line end lies before the cut."""
    return RECORDS[: content.count(b"\n")]


def test_any_prefix_of_a_file_reads_as_the_complete_lines_before_it(tmp_path):
    path, cut = tmp_path / "all.jsonl", tmp_path / "cut.jsonl"
    write_records(path, RECORDS)
    content = path.read_bytes()
    for end in range(len(content) + 1):
        cut.write_bytes(content[:end])
        expected = whole_before(content[:end])
        assert list(read_records(cut)) == expected
        assert list(read_records(cut, skip_broken=True)) == expected
        assert list(read_values(cut)) == expected
        assert RecordFollower(cut).new_records() == expected
        assert cut.read_bytes() == content[:end], "a reader has written"


@pytest.mark.parametrize("shared", [False, True])
def test_a_writer_goes_on_after_any_prefix(tmp_path, shared):
    path, cut = tmp_path / "all.jsonl", tmp_path / "cut.jsonl"
    write_records(path, RECORDS)
    content = path.read_bytes()
    for end in range(len(content) + 1):
        cut.write_bytes(content[:end])
        with RecordWriter(cut, shared=shared) as writer:
            writer.append({"new": 1})
        assert list(read_records(cut)) == [*whole_before(content[:end]), {"new": 1}]


def test_a_follower_sees_what_is_new_and_no_torn_line(tmp_path):
    path = tmp_path / "lines.jsonl"
    follower = RecordFollower(path)
    assert follower.new_records() == []
    path.write_bytes(b'{"n": 0}\n{"n": 1')
    assert follower.new_records() == [{"n": 0}]
    with path.open("ab") as file:
        file.write(b'}\n[1]\nbroken\n{"n": 2}\n')
    assert follower.new_records() == [{"n": 1}, {"n": 2}]
    assert follower.new_records() == []
    path.write_bytes(b'{"n": 7}\n')
    assert follower.new_records() == [{"n": 7}]


APPEND = """
import sys, pathlib
from vidtune.machine.records import RecordWriter
with RecordWriter(pathlib.Path(sys.argv[1]), shared=True) as writer:
    print("ready", flush=True)
    input()
    for number in range(200):
        writer.append_all([{"writer": sys.argv[2], "n": number, "part": part, "x": "x" * 3000} for part in (0, 1)])
"""


def test_two_processes_that_write_at_once_lose_and_mix_nothing(tmp_path):
    path = tmp_path / "cache.jsonl"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", APPEND, str(path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in ("a", "b")
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    records = list(read_records(path))
    for name in ("a", "b"):
        numbers = [(record["n"], record["part"]) for record in records if record["writer"] == name]
        assert numbers == [(number, part) for number in range(200) for part in (0, 1)]
    assert [record["part"] for record in records] == [0, 1] * 400


def test_records_that_the_system_writes_piece_by_piece_are_not_mixed(tmp_path, monkeypatch):
    path = tmp_path / "cache.jsonl"
    write = os.write

    def in_pieces(file, data):
        time.sleep(0.0005)
        return write(file, data[:7])

    monkeypatch.setattr(os, "write", in_pieces)

    def work(name):
        with RecordWriter(path, shared=True) as writer:
            for number in range(10):
                writer.append({"writer": name, "n": number})

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = [(record["writer"], record["n"]) for record in read_records(path)]
    assert sorted(records) == [(name, number) for name in "ab" for number in range(10)]


def test_a_shared_file_in_a_folder_without_locks_is_still_written(tmp_path):
    path = tmp_path / "cache.jsonl"
    path.write_bytes(b'{"n": 0}\n{"n": ')
    (tmp_path / ".cache.jsonl.lock").mkdir()  # nobody can take it
    with RecordWriter(path, shared=True) as writer:
        writer.append({"n": 1})
    assert list(read_records(path, skip_broken=True)) == [{"n": 0}, {"n": 1}]


def test_closing_twice_and_reopening(tmp_path):
    writer = RecordWriter(tmp_path / "lines.jsonl")
    writer.append([1, 2])
    writer.close()
    writer.close()
    with RecordWriter(tmp_path / "lines.jsonl") as again:
        again.append({"n": 1})
    assert list(read_values(tmp_path / "lines.jsonl")) == [[1, 2], {"n": 1}]
    with pytest.raises(UserError, match=r"line 1: not valid JSON \(expected an object\)"):
        list(read_records(tmp_path / "lines.jsonl"))
    assert json.loads((tmp_path / "lines.jsonl").read_text().splitlines()[0]) == [1, 2]


def test_a_file_far_too_long_is_neither_read_nor_searched_for_its_last_line(tmp_path):
    path = tmp_path / "log.jsonl"
    with path.open("wb") as file:
        file.truncate(2**40)
    for reads in (lambda: list(read_records(path)), RecordFollower(path).new_records, lambda: RecordWriter(path)):
        with pytest.raises(UserError, match=r"log\.jsonl: has 1,099,511,627,776 bytes, more than"):
            reads()
