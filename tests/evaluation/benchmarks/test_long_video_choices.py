"""Multiple choice about long videos: subtitles, records of lmms-eval, durations as tasks, mistakes in the sets."""

from dataclasses import replace
from pathlib import Path

import pytest
from choice_sets import OPTIONS, Chooser, lvb, mme, write_json
from qa_sets import quiet_predict
from synthetic_clips import write_clip

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.check import _oddities, check_test_set
from vidtune.evaluation.benchmarks.multiple_choice.subtitles import lines_at, shown_lines, timed_lines
from vidtune.evaluation.metrics.choices import READERS
from vidtune.evaluation.question import question_text
from vidtune.evaluation.scores.scoring import score_run
from vidtune.registry import BENCHMARKS

SHOWN = '{}\n00:00:{},000 --> 00:00:{},500\n<font color="white" size=".72c">{}</font>'


def words(name, folder, **changes):
    protocol = (
        BENCHMARKS[name]
        .protocol(prompt_format="v1", stop=())
        .with_overrides({"question_template": "{media}{question}", **changes}, "test")
    )
    return [question_text(one, protocol, media="") for one in BENCHMARKS[name].load(folder).questions]


def test_durations_are_tasks_and_letters_are_scored(tmp_path):
    data = mme(tmp_path / "Video-MME")
    benchmark = BENCHMARKS["video_mme"]
    engine = Chooser({0: "Option A", 1: "The answer is (B)", 2: "Best option: C"})
    quiet_predict(engine, benchmark.load(tmp_path), benchmark.protocol(prompt_format="v1"), tmp_path / "run")
    score = score_run(tmp_path / "run", progress=False)
    assert score.value("accuracy").official.value == pytest.approx(200 / 3)  # the last one is read as B
    assert score.value("accuracy", "medium").official.value == 100
    assert benchmark.load(data).questions[0].options == ("red", "blue", "green", "none")


def test_lmms_eval_speaks_of_subtitles_always_and_reads_another_letter(tmp_path):
    [first, *_] = words("video_mme_lmms_eval", mme(tmp_path))
    assert first == (
        "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
        "Respond with only the letter (A, B, C, or D) of the correct option.\nWhich?\n" + "\n".join(OPTIONS) + "\n\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert BENCHMARKS["video_mme_lmms_eval"].reads == "ranked"


def test_options_without_a_blank_behind_the_letter_are_shown_as_they_are_written(tmp_path):
    close = ["A.red", "B. blue", "C.green", "D.none"]
    name = "video_mme_lmms_eval"
    data = mme(tmp_path, changes=[(0, {"options": close}), (1, {"options": ["A.I.", "x", "y", "z"]})])
    loaded = [question.options for question in BENCHMARKS[name].load(data).questions]
    assert loaded[:2] == [("red", "blue", "green", "none"), ("A.I.", "x", "y", "z")]
    first, second, _ = words(name, data)
    assert "Which?\nA.red\nB. blue\nC.green\nD.none\n" in first and "Which?\nA. A.I.\nB. x\n" in second
    assert "(A) red\n(B) blue" in words(name, data, choices={"option": "({letter}) {option}"})[0]


def test_lmms_eval_takes_the_subtitles_of_32_frames(tmp_path):
    data = mme(tmp_path, missing=["a"])
    write_clip(data / "data" / "a.mp4", num_frames=40)  # 4 seconds
    sections = [SHOWN.format(number, f"{at:02d}", f"{at:02d}", f"said {at}") for number, at in enumerate((0, 2, 7))]
    (data / "subtitle").mkdir()
    (data / "subtitle" / "a.srt").write_text("\n\n".join([*sections, "4\n00:00:01,000 --> 00:00:02,000\nplain"]))
    first, second, _ = words("video_mme_subtitles_lmms_eval", data)
    assert first.startswith("This video's subtitles are listed below: \nsaid 0\nsaid 2\nSelect the best answer")
    assert first.endswith("D. none\nThe best answer is:")
    assert second.startswith("This video's subtitles are listed below: \nNo subtitles available\nSelect")
    whole = words("video_mme_subtitles", data)[0]
    assert whole.startswith("This video's subtitles are listed below: \nsaid 0\nsaid 2\nsaid 7\nThese are the")
    (data / "subtitle" / "a.srt").write_text("1\nnow\ntext")
    with pytest.raises(UserError, match=r"a\.srt: section 1: 'now' is no time"):
        words("video_mme_subtitles_lmms_eval", data)


@pytest.mark.parametrize(
    "time",
    ["00:00:nan --> 00:00:02,000", "00:00:01 --> 00:00:inf", f"{'9' * 310}:00:00 --> 0:0:2", "0:0:1 --> 0:0:1e308"],
)
def test_a_section_without_two_times_is_named(time):
    with pytest.raises(UserError, match=rf"a\.srt: section 1: '{time}' is no time"):
        timed_lines(Path("a.srt"), f"1\n{time}\ntext")


def test_a_check_lists_videos_without_subtitles_and_wrong_times(tmp_path):
    data = mme(tmp_path)
    (data / "subtitle").mkdir()
    (data / "subtitle" / "a.srt").write_text("1\r00:00:01,000 --> 00:00:02,000\rplain")
    lines = [list(check_test_set(BENCHMARKS[name], data, {}).lines()) for name in ("video_mme_subtitles", "video_mme")]
    told = "  1 videos without a file in subtitle/; they are asked about without subtitles"
    assert lines[0][lines[0].index(told) + 1] == "    b.srt" and told not in lines[1]
    assert lines[0][lines[0].index("  1 files of subtitles without a line that is marked as shown") + 1] == "    a.srt"
    question = BENCHMARKS["video_mme"].load(data).questions[0]
    times = [(None, None), (0, 2.5), (3, None), (-1, 2), (4, 4), (5, 2), (None, float("nan")), (float("inf"), None)]
    odd = [
        [what for what in _oddities(replace(question, start=a, end=b)) if what.startswith("times")] for a, b in times
    ]
    assert [len(found) for found in odd] == [0, 0, 0, 1, 1, 1, 1, 1]


def test_other_subtitles_are_another_test_set(tmp_path):
    data = mme(tmp_path)
    benchmark = BENCHMARKS["video_mme_subtitles"]
    before = benchmark.load(data).fingerprint
    (data / "subtitle").mkdir()
    (data / "subtitle" / "a.srt").write_text(SHOWN.format(1, "00", "01", "Hello"))
    assert benchmark.load(data).fingerprint != before
    assert BENCHMARKS["video_mme"].load(data).fingerprint == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "E"}, "entry 1: 'answer' is 'E', expected the letter of an option"),
        ({"options": ["A. x", "y"]}, "entry 1: 'options' begin with other letters"),
    ],
)
def test_a_wrong_entry_of_video_mme_is_named(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        BENCHMARKS["video_mme"].load(mme(tmp_path, changes=[(1, change)]))


def test_longvideobench_draws_a_letter_officially_and_counts_it_wrong_strictly(tmp_path):
    data = lvb(tmp_path / "LongVideoBench")
    benchmark = BENCHMARKS["longvideobench"]
    quiet_predict(Chooser({0: "?"}), benchmark.load(data), benchmark.protocol(prompt_format="v1"), tmp_path / "run")
    accuracy = score_run(tmp_path / "run", progress=False).value("accuracy")
    assert accuracy.strict.value == 0 and accuracy.official.value in (0, 100)
    [text] = words("longvideobench", data)
    assert text.startswith(" This video's subtitles are listed below: \nsaid.\n Select")
    by_letter = "Answer with the option's letter from the given choices directly.\n"
    assert text.endswith(f"\nQuestion: Who?\n(A). cat\n(B). dog\n{by_letter}")
    [bare] = words("longvideobench_lmms_eval", data)
    assert bare == f"Who?\nA. cat\nB. dog\n{by_letter}"


def test_an_end_that_is_no_fraction_is_that_of_the_video(tmp_path):
    path = write_json(tmp_path / "v.json", [{"timestamp": [1, 2], "text": "x"}, {"timestamp": [1, 2.0], "text": "y"}])
    assert lines_at(path, [3.0], 0.0, 4.0) == ["x"]
    write_json(path, [{"start": "1:2", "end": "0:0:3", "line": "x"}])
    with pytest.raises(UserError, match=r"v\.json: entry 0: expected 'start', 'end' and 'line'"):
        lines_at(path, [3.0], 0.0, 4.0)


TIMED = {"timestamp": [1.0, 3.0], "text": "x"}


@pytest.mark.parametrize(
    "line",
    [
        *({"timestamp": times, "text": "x"} for times in ([float("nan"), 3.0], ["1", 3.0], [True, 3.0], [1e10, None])),
        *({"timestamp": times, "text": "x"} for times in ([1.0, float("inf")], [1.0], 1.0, None)),
        {**TIMED, "text": None},
        {"text": "x"},
        {"start": "9" * 320 + ":0:0", "end": "0:0:3", "line": "x"},
    ],
)
def test_a_line_without_two_times_and_a_text_is_named(tmp_path, line):
    path = write_json(tmp_path / "v.json", [TIMED, line])
    with pytest.raises(UserError, match=r"v\.json: entry 1: expected 'start', 'end' and 'line', or 'timestamp'"):
        lines_at(path, [2.0], 0.0, 4.0)


def test_a_line_that_ends_before_it_begins_is_shown_around_its_middle(tmp_path):
    path = write_json(tmp_path / "v.json", [{"timestamp": [5.0, 1.0], "text": "x"}])
    assert [lines_at(path, [time], 0.0, 9.0) for time in (1.0, 2.6, 3.4, 5.0)] == [[], ["x"], ["x"], []]


def test_old_line_ends_are_line_ends():
    shown = [SHOWN.format(number, "00", "01", text) for number, text in enumerate("ab")]
    for end in ("\n", "\r\n", "\r"):
        assert shown_lines("\n\n".join(shown).replace("\n", end)) == ["a", "b"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct_choice": 2}, "entry 0: 'correct_choice' is 2, expected 0 to 1"),
        ({"option3": "cow"}, "entry 0: options are .*expected texts, then 'N/A'"),
        ({"subtitle_path": "../v.json"}, "entry 0: 'subtitle_path' '../v.json' leaves the folder"),
        ({"subtitle_path": "w.json"}, r"entry 0: no subtitles at '.*w_en\.json' \(1 file missing in all\)"),
        ({"duration": -1.5}, "entry 0: 'duration' is -1.5, expected a number above 0"),
        ({"id": [1]}, "entry 0: 'id' is list, expected str or int"),
    ],
)
def test_a_wrong_entry_of_longvideobench_is_named(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        BENCHMARKS["longvideobench"].load(lvb(tmp_path, **change))


def test_the_two_letter_rules_differ_in_openings_and_letters():
    answers = ["Best option: C", "The correct option is E", "B"]
    assert [READERS["first_capital"](one, ()) for one in answers] == ["B", None, "B"]
    assert [READERS["first_of_five"](one, ()) for one in answers] == ["C", "E", "B"]
