"""Files whose JSON is more than 100 nested levels, and a lock that is looked at while somebody takes it."""

import threading
import time
from pathlib import Path

import pytest

from vidtune.data.checking.checked_files import CheckedFiles
from vidtune.errors import UserError
from vidtune.foreign.documents import read_json
from vidtune.machine.locks import locked
from vidtune.machine.records import RecordFollower, read_records

DEEP = "[" * 200_000 + "\n"


def test_json_that_is_nested_too_deeply_is_a_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "deep.jsonl"
    path.write_text(DEEP)
    with pytest.raises(UserError, match="more than 100 nested levels"):
        read_json(path)
    with pytest.raises(UserError, match=r"line 1: .*more than 100 nested levels"):
        list(read_records(path))
    assert list(read_records(path, skip_broken=True)) == [] and RecordFollower(path).new_records() == []


def test_a_list_of_checked_files_with_wrong_values_is_read_without_them(tmp_path: Path) -> None:
    path = tmp_path / "checked.jsonl"
    path.write_text('[["a"], 1, 2, 3, "b", "video"]\n["a", [1], 2, 3, "b", "video"]\n["a", 1, 2, 3, "b", null]\n')
    assert CheckedFiles(path).kind("a", "b") is None


def test_a_lock_that_is_held_for_a_moment_is_not_refused(tmp_path: Path) -> None:
    taken, done = threading.Event(), []

    def look() -> None:
        with locked(tmp_path):
            taken.set()
            time.sleep(0.2)
            done.append(True)

    thread = threading.Thread(target=look)
    thread.start()
    taken.wait()
    with locked(tmp_path, refusal="taken"):
        assert done
    thread.join()
