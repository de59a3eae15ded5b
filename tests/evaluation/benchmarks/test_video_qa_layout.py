"""Reading the official layout: what is found, how it is paired, and what is refused."""

import json

import pytest
from qa_sets import write_set

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.video_qa import VideoQA
from vidtune.registry import BENCHMARKS

ENTRIES = [("a", "what?", "cat"), ("b", "who?", "man"), ("a", "where?", "park")]


@pytest.fixture
def benchmark():
    return BENCHMARKS["msvd_qa"]


def test_questions_are_paired_with_answers_by_position(benchmark, tmp_path):
    loaded = benchmark.load(write_set(tmp_path, ENTRIES))
    assert [(q.video, q.question, q.answer, q.index) for q in loaded.questions] == [
        ("a", "what?", "cat", 0),
        ("b", "who?", "man", 1),
        ("a", "where?", "park", 2),
    ]
    assert [q.id for q in loaded.questions] == ["a_0", "b_1", "a_2"]


def test_extensions_are_tried_in_the_official_order(benchmark, tmp_path):
    write_set(tmp_path, ENTRIES, missing=("a", "b"))
    for name in ("a.mkv", "a.mov", "b.avi", "b.mp4", "b.webm"):
        (tmp_path / "videos" / name).touch()
    files = [q.file for q in benchmark.load(tmp_path).questions]
    assert files == ["videos/a.mov", "videos/b.mp4", "videos/a.mov"]


def test_missing_videos_have_no_file(benchmark, tmp_path):
    files = [q.file for q in benchmark.load(write_set(tmp_path, ENTRIES, missing=("a",))).questions]
    assert files == [None, "videos/b.mp4", None]


@pytest.mark.parametrize("name", [one.name for one in BENCHMARKS.values() if isinstance(one, VideoQA)])
def test_the_set_is_found_from_its_folder_and_from_those_above(name, tmp_path):
    benchmark = BENCHMARKS[name]
    folder = tmp_path / benchmark.parent / benchmark.folder
    write_set(folder, ENTRIES, videos=benchmark.lookup.folder, missing=("a", "b"))
    (folder / benchmark.lookup.folder / f"{benchmark.lookup.prefix}a.mp4").touch()
    for given in (folder, folder.parent, tmp_path):
        loaded = benchmark.load(given)
        assert loaded.folder == folder
        assert [q.file is None for q in loaded.questions] == [False, True, False]


def test_question_types_get_their_names(tmp_path):
    write_set(tmp_path, ENTRIES, types=[3, 99], videos="all_test")
    assert [q.type for q in BENCHMARKS["activitynet_qa"].load(tmp_path).questions] == ["yes/no", "99", None]


def test_the_fingerprint_follows_the_content_not_the_place(benchmark, tmp_path):
    first = benchmark.load(write_set(tmp_path / "x", ENTRIES)).fingerprint
    assert benchmark.load(write_set(tmp_path / "y", ENTRIES)).fingerprint == first
    assert benchmark.load(write_set(tmp_path / "z", ENTRIES[:2])).fingerprint != first


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", "..", "", "nul\0byte"])
def test_a_video_name_cannot_leave_the_folder(benchmark, tmp_path, name):
    write_set(tmp_path / "set", ENTRIES)
    (tmp_path / "secret.mp4").touch()
    questions = [{"video_name": name, "question": "?", "question_id": "1"}]
    (tmp_path / "set" / "test_q.json").write_text(json.dumps(questions))
    (tmp_path / "set" / "test_a.json").write_text('[{"answer": "x"}]')
    with pytest.raises(UserError, match=r"test_q\.json: entry 0: .* leaves the folder"):
        benchmark.load(tmp_path / "set")


def test_a_linked_video_folder_is_fine_but_a_link_out_of_it_is_not(benchmark, tmp_path):
    folder = write_set(tmp_path / "set", ENTRIES)
    (folder / "videos").rename(tmp_path / "big_disk")
    (folder / "videos").symlink_to(tmp_path / "big_disk")
    assert benchmark.load(folder).questions[0].file == "videos/a.mp4"
    (tmp_path / "secret.mp4").touch()
    (tmp_path / "big_disk" / "a.mp4").unlink()
    (tmp_path / "big_disk" / "a.mp4").symlink_to(tmp_path / "secret.mp4")
    with pytest.raises(UserError, match="is a link that leaves"):
        benchmark.load(folder)


def test_broken_json_is_named_with_line_and_column(benchmark, tmp_path):
    write_set(tmp_path, ENTRIES)
    (tmp_path / "test_a.json").write_text('[\n {"answer": "x"},\n {"answer": }\n]')
    with pytest.raises(UserError, match=r"test_a\.json: line 3, column 13: not valid JSON"):
        benchmark.load(tmp_path)


@pytest.mark.parametrize(
    ("questions", "answers", "message"),
    [
        ([{"video_name": "a", "question": "?", "question_id": "1"}], [], r"has 1 entries but test_a\.json has 0"),
        ({"a": 1}, [], r"test_q\.json: expected a list of objects, found dict"),
        (["x"], [{"answer": "y"}], r"test_q\.json: entry 0 is str"),
        ([{"question": "?", "question_id": "1"}], [{"answer": "y"}], r"test_q\.json: entry 0 has no 'video_name'"),
        ([{"video_name": "a", "question": "?"}], [{"answer": "y"}], r"test_q\.json: entry 0 has no 'question_id'"),
        (
            [{"video_name": "a", "question": 7, "question_id": "1"}],
            [{"answer": "y"}],
            r"entry 0: 'question' is int, expected str",
        ),
        ([{"video_name": "a", "question": "?", "question_id": "1"}], [{}], r"test_a\.json: entry 0 has no 'answer'"),
        ([{"video_name": "a", "question": "?", "question_id": "1"}], [{"answer": None}], "'answer' is NoneType"),
        ([{"video_name": "a", "question": "?", "question_id": "1"}], [{"answer": True}], "'answer' is bool"),
        ([{"video_name": "a", "question": "?", "question_id": "1"}], [{"answer": float("nan")}], "'answer' is nan"),
        ([{"video_name": "a", "question": "?", "question_id": True}], [{"answer": "x"}], "'question_id' is bool"),
        ([], [], r"test_q\.json: holds no question"),
    ],
)
def test_bad_files_are_named_with_entry_and_field(benchmark, tmp_path, questions, answers, message):
    write_set(tmp_path, ENTRIES)
    (tmp_path / "test_q.json").write_text(json.dumps(questions))
    (tmp_path / "test_a.json").write_text(json.dumps(answers))
    with pytest.raises(UserError, match=message):
        benchmark.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"video_name": "a", "question": "?", "question_id": 1, "question_id": 2}]', "'question_id' stands twice"),
        ('[{"video_name": "a", "question": "?", "question_id": %s}]' % ("1" * 5000), "an integer of 5000 digits"),
    ],
)
def test_questions_with_two_readings_are_refused(benchmark, tmp_path, text, message):
    write_set(tmp_path, ENTRIES)
    (tmp_path / "test_q.json").write_text(text)
    with pytest.raises(UserError, match=rf"test_q\.json: .*{message}"):
        benchmark.load(tmp_path)


@pytest.mark.parametrize(
    ("ids", "fits"),
    [
        (["a_0", "b_1", "a_2"], True),
        ([None, None, None], True),
        (["all"] * 3, True),
        (["b_1", "a_0", "a_2"], False),
        (["x", "y", "z"], False),
    ],
)
def test_answers_that_name_their_questions_must_stand_in_their_order(benchmark, tmp_path, ids, fits):
    write_set(tmp_path, ENTRIES)
    answers = [{"answer": "cat", **({} if own is None else {"question_id": own})} for own in ids]
    (tmp_path / "test_a.json").write_text(json.dumps(answers))
    if fits:
        assert len(benchmark.load(tmp_path).questions) == 3
        return
    with pytest.raises(UserError, match=r"entry 0 of test_q\.json has the question_id 'a_0', but in test_a\.json"):
        benchmark.load(tmp_path)


def test_a_text_that_is_not_utf8_is_named(benchmark, tmp_path):
    write_set(tmp_path, ENTRIES)
    (tmp_path / "test_q.json").write_bytes(b'[{"question": "\xff"}]')
    with pytest.raises(UserError, match=r"test_q\.json: line 1: not UTF-8 text"):
        benchmark.load(tmp_path)


def test_half_a_character_is_read_as_the_one_that_stands_for_what_is_unknown(benchmark, tmp_path):
    write_set(tmp_path, ENTRIES)
    questions = json.loads((tmp_path / "test_q.json").read_text())
    questions[0]["question"] = "\ud800?"
    (tmp_path / "test_q.json").write_text(json.dumps(questions))
    assert benchmark.load(tmp_path).questions[0].question == "\ufffd?"


def test_an_unknown_benchmark_gets_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'msrvtt_qa'"):
        BENCHMARKS["MSRVT-QA"]
