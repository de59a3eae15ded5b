"""Multiple choice about long videos: subtitles, records of lmms-eval, durations as tasks, mistakes in the sets."""

from dataclasses import replace

import pytest
from choice_sets import Chooser, touch, write_json
from qa_sets import quiet_predict
from synthetic_clips import write_clip

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.check import _oddities, check_test_set
from vidtune.evaluation.benchmarks.multiple_choice.subtitles import lines_at
from vidtune.evaluation.metrics.choices import READERS
from vidtune.evaluation.question import question_text
from vidtune.evaluation.scores.scoring import score_run
from vidtune.registry import BENCHMARKS

SHOWN = '{}\n00:00:{},000 --> 00:00:{},500\n<font color="white" size=".72c">{}</font>'
OPTIONS = ["A. red", "B. blue", "C. green", "D. none"]


def mme(folder, *, changes=(), missing=()):
    entries = [
        {"question_id": f"{number}-1", "videoID": video, "duration": kind, "question": "Which?", "options": OPTIONS}
        for number, (video, kind) in enumerate([("a", "short"), ("b", "medium"), ("a", "short")])
    ]
    entries = [{**entry, "answer": letter} for entry, letter in zip(entries, "ABC", strict=True)]
    for place, change in changes:
        entries[place] |= change
    write_json(folder / "videomme.json", entries)
    for name in {"a", "b"} - set(missing):
        touch(folder / "data" / f"{name}.mp4")
    return folder


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
    for time in ("now", "00:00:nan --> 00:00:02,000", "00:00:01 --> 00:00:inf"):
        (data / "subtitle" / "a.srt").write_text(f"1\n{time}\ntext")
        with pytest.raises(UserError, match=rf"a\.srt: section 1: '{time}' is no time"):
            words("video_mme_subtitles_lmms_eval", data)


def test_a_check_lists_videos_without_subtitles_and_wrong_times(tmp_path):
    data = mme(tmp_path)
    touch(data / "subtitle" / "a.srt")
    lines = [list(check_test_set(BENCHMARKS[name], data, {}).lines()) for name in ("video_mme_subtitles", "video_mme")]
    told = "  1 videos without a file in subtitle/; they are asked about without subtitles"
    assert lines[0][lines[0].index(told) + 1] == "    b.srt" and told not in lines[1]
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


def lvb(folder, **changes):
    document = {"id": "v_0", "video_path": "v.mp4", "subtitle_path": "v.json", "duration": 4.0, "question": "Who?"}
    document |= {"starting_timestamp_for_subtitles": 0, "duration_group": 15, "correct_choice": 1}
    document |= {f"option{place}": text for place, text in enumerate(["cat", "dog", "N/A", "N/A", "N/A"])}
    write_json(folder / "lvb_val.json", [document | changes])
    write_json(folder / "subtitles" / "v_en.json", [{"timestamp": [1.5, None], "text": "said"}])
    touch(folder / "videos" / "v.mp4")
    return folder


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct_choice": 2}, "entry 0: 'correct_choice' is 2, expected 0 to 1"),
        ({"option3": "cow"}, "entry 0: options are .*expected texts, then 'N/A'"),
        ({"subtitle_path": "../v.json"}, "entry 0: 'subtitle_path' '../v.json' leaves the folder"),
        ({"subtitle_path": "w.json"}, r"w_en\.json: cannot be read"),
    ],
)
def test_a_wrong_entry_of_longvideobench_is_named(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        BENCHMARKS["longvideobench"].load(lvb(tmp_path, **change))


def test_the_two_letter_rules_differ_in_openings_and_letters():
    answers = ["Best option: C", "The correct option is E", "B"]
    assert [READERS["first_capital"](one, ()) for one in answers] == ["B", None, "B"]
    assert [READERS["first_of_five"](one, ()) for one in answers] == ["C", "E", "B"]
