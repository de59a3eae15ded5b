"""Multiple-choice benchmarks: layouts of the test sets, what is asked, official and strict values, records of rules."""

import pytest
from choice_sets import Chooser, mvbench, write_json
from qa_sets import quiet_predict, records

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.check import check_test_set
from vidtune.evaluation.scores.comparison import compare_runs
from vidtune.evaluation.scores.score_file import read_score
from vidtune.evaluation.scores.scoring import score_run
from vidtune.registry import BENCHMARKS


def ask(name, data, folder, replies=None, overrides=None):
    benchmark = BENCHMARKS[name]
    engine = Chooser(replies or {})
    protocol = benchmark.protocol(prompt_format="v1").with_overrides(overrides or {}, "test")
    quiet_predict(engine, benchmark.load(data).with_similar_files(), protocol, folder)
    return engine


def question(name, data, place=0):
    return BENCHMARKS[name].load(data).questions[place]


def test_mvbench_reads_twenty_tasks_with_their_folders_and_parts(tmp_path):
    found = BENCHMARKS["mvbench"].load(mvbench(tmp_path / "MVBench").parent)
    assert len(found.questions) == 20 and not any(one.missing for one in found.questions)
    by_type = {one.type: one for one in found.questions}
    first = by_type["action_sequence"]
    assert (first.id, first.file) == ("action_sequence/0", "video/star/Charades_v1_480/action_sequence.mp4")
    assert (first.start, first.end, first.fps, first.options, first.answer) == (1.5, 4.0, None, ("x", "y", "z"), "B")
    frames = by_type["episodic_reasoning"]
    assert (frames.file, frames.fps) == ("video/tvqa/frames_fps3_hq/episodic_reasoning", 3.0)
    assert by_type["moving_count"].start is None


def test_the_record_of_lmms_eval_reads_cut_videos_where_they_are(tmp_path):
    data = mvbench(tmp_path, cut=("episodic_reasoning", "action_localization"))
    official, harness = (
        {one.type: one for one in BENCHMARKS[name].load(data).questions} for name in ("mvbench", "mvbench_lmms_eval")
    )
    assert harness["action_localization"].file == "video/sta/sta_video_segment/action_localization.mp4"
    assert harness["action_localization"].start is None and official["action_localization"].start == 1.5
    assert harness["episodic_reasoning"].video.startswith("tvqa/video_fps3_hq_segment/")
    assert harness["action_sequence"] == official["action_sequence"]


def test_a_set_that_lacks_a_task_or_holds_a_wrong_entry_is_named(tmp_path):
    data = mvbench(tmp_path, missing=("vlnqa", "egocentric_navigation", "episodic_reasoning"))
    found = check_test_set(BENCHMARKS["mvbench"], data, {}, "video")
    assert found.usable == 18 and "with pictures" in found.missing["tvqa/frames_fps3_hq/episodic_reasoning"]
    write_json(data / "json" / "vlnqa.json", [])
    entry = {"video": "a.mp4", "question": "?", "candidates": ["x"], "answer": "none of them"}
    write_json(data / "json" / "moving_count.json", [entry])
    odd = check_test_set(BENCHMARKS["mvbench"], data, {}, "video").odd
    assert [(one.id, one.what) for one in odd] == [("moving_count/0", "answers that are none of the options")]
    path = write_json(data / "json" / "moving_count.json", [{**entry, "candidates": []}])
    with pytest.raises(UserError, match=r"moving_count\.json: entry 0: 'candidates' holds 0 options"):
        BENCHMARKS["mvbench"].load(data)
    path.unlink()
    with pytest.raises(UserError, match=r"moving_count\.json: does not exist; MVBench has 20 tasks"):
        BENCHMARKS["mvbench"].load(data)


def test_official_values_leave_empty_answers_out_and_strict_ones_do_not(tmp_path):
    data = mvbench(tmp_path / "data", missing=("action_count",))
    ask("mvbench", data, tmp_path / "run", {0: "", 1: "(A)", 2: "what?"})
    score = score_run(tmp_path / "run", progress=False)
    accuracy = score.value("accuracy")
    # 20 questions: one without a video, one empty, two wrong, sixteen right.
    assert accuracy.official.value == pytest.approx(100 * 16 / 18) and accuracy.strict.value == pytest.approx(80)
    # The task of the empty answer has no right answer, and the weight of its question.
    assert score.value("mean of tasks").official.value == pytest.approx(100 * 16 / 19)
    assert (score.overall.excluded, score.overall.missing, score.overall.unread, score.overall.yes) == (1, 1, 1, 16)
    assert "1 left out as published: the published scorer does not count empty answers" in str(score)
    assert "mean of tasks" not in [value.name for value in score.group("moving_count").values]
    assert read_score(tmp_path / "run", "metrics") == score


def test_likelihoods_are_a_second_protocol_with_runs_of_their_own(tmp_path):
    data = mvbench(tmp_path / "data")
    benchmark = BENCHMARKS["mvbench"]
    plain = benchmark.protocol(prompt_format="v1")
    scored = plain.with_overrides({"choices": {"answering": "letters"}}, "test")
    assert scored.hash != plain.hash and scored.run_name == "mvbench-likelihood"
    engine = ask("mvbench", data, tmp_path / "run", {0: "(C)"}, {"choices": {"answering": "letters"}})
    assert engine.asked[0].options == ("(A)", "(B)", "(C)")
    first = records(tmp_path / "run" / "predictions.jsonl")[0]
    assert first["pred"] == "B" and first["likelihoods"] == [-1.0, 0.0, -1.0]
    assert score_run(tmp_path / "run", progress=False).value("accuracy").official.value == 100
    texts = plain.with_overrides({"choices": {"answering": "options"}}, "test").choices
    assert texts.scored(["x", "y"]) == ("x", "y") and plain.choices.scored(["x"]) == ()


def test_two_records_are_compared_by_what_their_protocols_differ_in(tmp_path):
    data = mvbench(tmp_path / "data")
    for name in ("mvbench", "mvbench_lmms_eval"):
        ask(name, data, tmp_path / name, {0: "(A)"} if name == "mvbench" else {})
    for name in ("mvbench", "mvbench_lmms_eval"):
        score_run(tmp_path / name, progress=False)
    found = compare_runs(tmp_path / "mvbench", tmp_path / "mvbench_lmms_eval", "metrics")
    assert set(found.differs_in) == {"benchmark", "choices"}
    assert found.difference("accuracy").official.value == pytest.approx(-5)
