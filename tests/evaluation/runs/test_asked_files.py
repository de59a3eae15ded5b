"""Answers of one run are about one version of each file: a replaced one is refused, a moved one is not."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from qa_sets import StubEngine, counted_set, quiet_predict, records, stub_protocol, stub_run

from vidtune.data.sample import MediaRef
from vidtune.errors import UserError
from vidtune.evaluation.runs.asked_files import ASKED_FILES, content_of
from vidtune.registry import BENCHMARKS


@pytest.fixture
def data(tmp_path):
    """Two videos, clip0 with questions 0, 2 and 4, clip1 with the others."""
    folder = counted_set(tmp_path / "set", 6)
    for name in ("clip0", "clip1"):
        (folder / "videos" / f"{name}.mp4").write_bytes(name.encode() * 100)
    return folder


def replaced(path: Path) -> None:
    """Other bytes, the same size and time of modification."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir()}


@pytest.mark.parametrize("limit", [1, None])
def test_a_replaced_video_is_refused_whether_questions_are_left_or_not(data, tmp_path, limit):
    run = tmp_path / "run"
    stub_run(data, run, limit=limit)
    before, engine = contents(run), StubEngine()
    replaced(data / "videos" / "clip0.mp4")
    with pytest.raises(UserError, match=r"clip0.mp4 had another content when its questions were answered; .*--out"):
        stub_run(data, run, engine)
    assert not engine.asked and contents(run) == before


def test_all_replaced_videos_are_counted(data, tmp_path):
    stub_run(data, tmp_path / "run")
    for name in ("clip0", "clip1"):
        replaced(data / "videos" / f"{name}.mp4")
    with pytest.raises(UserError, match=r"clip0.mp4 .* \(2 files differ\)"):
        stub_run(data, tmp_path / "run")


def test_a_video_that_was_not_answered_about_may_be_replaced(data, tmp_path):
    stub_run(data, tmp_path / "run", StubEngine(errors={"clip0": "is cut off"}), limit=1)
    replaced(data / "videos" / "clip0.mp4")
    assert stub_run(data, tmp_path / "run", retry_failed=True).answered == 6
    replaced(data / "videos" / "clip0.mp4")
    with pytest.raises(UserError, match=r"clip0.mp4 had another content"):
        stub_run(data, tmp_path / "run")


def test_another_file_of_the_same_video_is_refused_unless_its_content_is_the_same(data, tmp_path):
    def ask(limit):
        questions = BENCHMARKS["world_qa"].load(data).with_similar_files()
        options = {"limit": limit}
        return quiet_predict(StubEngine(), questions, stub_protocol(), tmp_path / "run", **options)

    ask(3)
    videos = data / "videos"
    (videos / "clip0.mp4").rename(videos / "clip0.mkv")
    assert ask(4).answered == 4
    (videos / "clip0.mp4").write_bytes(b"another")
    with pytest.raises(UserError, match=r"clip0.mp4 was another file .*clip0.mkv"):
        ask(None)


def test_a_moved_folder_of_equal_content_goes_on_and_is_read_once(data, tmp_path, monkeypatch):
    stub_run(data, tmp_path / "run", limit=3)
    moved = tmp_path / "moved"
    shutil.copytree(data, moved)
    shutil.rmtree(data)
    assert stub_run(moved, tmp_path / "run").answered == 6
    stub_run(moved, tmp_path / "run")
    monkeypatch.setattr("vidtune.evaluation.runs.asked_files.content_of", lambda path: pytest.fail(path))
    stub_run(moved, tmp_path / "run")
    replaced(moved / "videos" / "clip1.mp4")
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"clip1.mp4 had another content"):
        stub_run(moved, tmp_path / "run")


def test_a_video_that_is_replaced_while_it_is_asked_about_is_noticed_later(data, tmp_path):
    class Replacing(StubEngine):
        def answer(self, requests):
            requests = list(requests)
            replaced(data / "videos" / "clip1.mp4")
            return super().answer(requests)

    stub_run(data, tmp_path / "run", Replacing())
    with pytest.raises(UserError, match=r"clip1.mp4 had another content"):
        stub_run(data, tmp_path / "run")


def test_a_file_that_cannot_be_read_now_is_not_said_to_differ_and_not_noted(data, tmp_path, monkeypatch):
    stub_run(data, tmp_path / "run", limit=1)
    before = records(tmp_path / "run" / ASKED_FILES)
    replaced(data / "videos" / "clip0.mp4")
    monkeypatch.setattr("vidtune.evaluation.runs.asked_files.content_of", lambda path: None)
    stub_run(data, tmp_path / "run", StubEngine(errors={"clip": "cannot be read"}))
    assert records(tmp_path / "run" / ASKED_FILES) == before
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"clip0.mp4 had another content"):
        stub_run(data, tmp_path / "run")


def test_a_run_without_the_record_goes_on_and_says_nothing_of_its_answers(data, tmp_path):
    stub_run(data, tmp_path / "run", limit=1)
    (tmp_path / "run" / ASKED_FILES).unlink()
    replaced(data / "videos" / "clip0.mp4")
    assert stub_run(data, tmp_path / "run").answered == 6
    assert [line["video"] for line in records(tmp_path / "run" / ASKED_FILES)] == ["clip0", "clip1"]


@pytest.mark.parametrize("line", ['{"video": "clip0"}', '{"video": "a", "what": "", "name": "a", "version": [1, 2]}'])
def test_a_record_of_another_form_is_named(data, tmp_path, line):
    stub_run(data, tmp_path / "run", limit=1)
    (tmp_path / "run" / ASKED_FILES).write_text(line + "\n")
    with pytest.raises(UserError, match=r"files.jsonl: line 1: tells no file of a video"):
        stub_run(data, tmp_path / "run")


def test_content_is_of_all_files_of_a_folder_and_of_blocks_of_a_large_file(tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for name in ("0.jpg", "1.jpg", "2.jpg", "3.jpg"):
        (frames / name).write_bytes(name.encode())
    first = content_of(str(frames))
    assert content_of(str(shutil.copytree(frames, tmp_path / "copy"))) == first
    replaced(frames / "2.jpg")
    assert content_of(str(frames)) != first
    for number in range(40):
        (frames / f"{number}.jpg").write_bytes(b"frame")
    many = content_of(str(frames))
    replaced(max(frames.iterdir()))
    assert content_of(str(frames)) not in (many, None)
    large = tmp_path / "large"
    large.write_bytes(bytes(5 * 2**20))
    before = content_of(str(large))
    with large.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"1")
    assert None not in (before, first) and content_of(str(large)) != before
    assert content_of(str(tmp_path / "absent")) is None and content_of("") is None


def test_further_media_of_a_question_are_compared_too(data, tmp_path):
    (data / "videos" / "frame.jpg").write_bytes(b"a frame")
    found = BENCHMARKS["world_qa"].load(data)
    boxed = [replace(one, media=(MediaRef("box", "videos/frame.jpg"),)) for one in found.questions]
    for questions in (
        found.questions[:3],
        boxed[3:],
    ):  # clip0 and clip1 are asked about without the frame, then with it
        asked = replace(found, questions=(*found.questions[:3], *boxed[3:]))
        options = {"limit": questions[-1].index + 1}
        quiet_predict(StubEngine(), asked, stub_protocol(), tmp_path / "run", **options)
    replaced(data / "videos" / "frame.jpg")
    with pytest.raises(UserError, match=r"frame.jpg had another content .*\(2 files differ\)"):
        quiet_predict(StubEngine(), asked, stub_protocol(), tmp_path / "run", **options)
