"""Multiple-choice benchmarks: layouts of the test sets, what is asked, official and strict values, records of rules."""

import json
from dataclasses import replace

import pytest
from choice_sets import Chooser, lvbench, mlvu, mvbench, perception_test, touch, write_json
from qa_sets import quiet_predict, records

from vidtune.cli.main import run as vidtune
from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.check import check_test_set
from vidtune.evaluation.benchmarks.measured import Item
from vidtune.evaluation.report.page import build_report
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
    found = check_test_set(BENCHMARKS["mvbench"], data, {})
    assert found.usable == 18 and "with pictures" in found.missing["tvqa/frames_fps3_hq/episodic_reasoning"]
    entry = {"video": "a.mp4", "question": "?", "candidates": ["x"], "answer": "none of them"}
    write_json(data / "json" / "moving_count.json", [entry])
    odd = check_test_set(BENCHMARKS["mvbench"], data, {}).odd
    assert [(one.id, one.what) for one in odd] == [("moving_count/0", "answers that are none of the options")]
    for wrong, said in (([None, "x"], "None, expected text"), ([True], "True, expected text")):
        write_json(data / "json" / "moving_count.json", [{**entry, "candidates": wrong}])
        with pytest.raises(UserError, match=rf"moving_count\.json: entry 0: 'candidates' holds {said}"):
            BENCHMARKS["mvbench"].load(data)
    write_json(data / "json" / "moving_count.json", [])
    with pytest.raises(UserError, match=r"moving_count\.json: holds no question; the set has 20 such files"):
        BENCHMARKS["mvbench"].load(data)
    path = write_json(data / "json" / "moving_count.json", [{**entry, "candidates": []}])
    with pytest.raises(UserError, match=r"moving_count\.json: entry 0: 'candidates' holds 0 options"):
        BENCHMARKS["mvbench"].load(data)
    path.unlink()
    with pytest.raises(UserError, match=r"moving_count\.json: does not exist; the set has 20 such files"):
        BENCHMARKS["mvbench"].load(data)


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (5, 2), (2, 2)])
def test_a_question_about_no_part_of_a_video_is_left_out_by_name_and_the_others_are_asked(tmp_path, start, end):
    data = mvbench(tmp_path / "MVBench")
    path = data / "json" / "action_sequence.json"
    [entry] = json.loads(path.read_text())
    write_json(path, [{**entry, "start": start, "end": end}, entry])
    assert len(ask("mvbench", data, tmp_path / "run").asked) == 20
    [left_out] = records(tmp_path / "run" / "missing.jsonl")
    assert (left_out["id"], left_out["reason"]) == ("action_sequence/0", "its seconds are no part of a video")
    found = check_test_set(BENCHMARKS["mvbench"], data, {})
    assert (found.usable, found.missing) == (20, {})


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
    # The likeliest of six is F, which the rule for written answers of this record does not read.
    harness = BENCHMARKS["mlvu_lmms_eval"]
    scored = harness.protocol(prompt_format="v1").with_overrides({"choices": {"answering": "letters"}}, "test")
    item = Item(0, "0", "v", "", {"letter": "F", "options": list("uvwxyz")}, "F")
    found = [one.measure([item]).official[""].metrics["accuracy"].value for one in (harness, harness.under(scored))]
    assert found == [0, 1]
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


@pytest.mark.parametrize("numbered", [True, False])
def test_mlvu_reads_its_tasks_and_both_names_of_its_folders(tmp_path, numbered):
    found = BENCHMARKS["mlvu"].load(mlvu(tmp_path / "MLVU", numbered=numbered).parent).questions
    assert [one.type for one in found][:3] == ["plotQA", "needle", "ego"] and len(found) == 7
    assert found[3].file == f"video/{'4_' if numbered else ''}count/count.mp4"
    assert not any(one.missing for one in found) and {one.answer for one in found} == {"B"}


def test_lvbench_reads_the_release_and_the_cleaned_set(tmp_path):
    data = lvbench(tmp_path / "LVBench")
    first, second, third = BENCHMARKS["lvbench"].load(tmp_path).questions
    assert (first.id, first.video, first.file, first.answer) == ("7", "a", "videos/a.mp4", "B")
    assert (second.answer, third.answer, third.type) == ("D", "A", "sport")
    assert first.options == ("(A) x", "(B) y", "(C) z", "(D) w") and first.question == "What is it?"
    harness = BENCHMARKS["lvbench_lmms_eval"].load(data).questions[0]
    assert harness.options == ("x", "y", "z", "w")
    touch(data / "frames" / "a" / "a_1.jpg")
    first, *_, third = BENCHMARKS["lvbench"].load(data).questions
    assert (first.file, first.fps) == ("frames/a", 1.0) and "with pictures" in third.looked_for
    entry = {"video": "a.mp4", "question": "Who?", "candidates": ["(A) x", "(B) y"], "answer": "(B) y"}
    for category in ("cartoon", "documentary", "live", "selfmedia", "sport"):
        write_json(data / "json" / f"lvbench_clean_{category}.json", [entry])
    with pytest.raises(UserError, match=r"lvbench_clean_tv\.json: does not exist; the set has 6 such files"):
        BENCHMARKS["lvbench"].load(data)
    write_json(data / "json" / "lvbench_clean_tv.json", [entry])
    cleaned = BENCHMARKS["lvbench"].load(data).questions
    assert [one.type for one in cleaned] == ["cartoon", "documentary", "live", "selfmedia", "sport", "tv"]
    assert (cleaned[0].file, cleaned[0].answer) == ("frames/a", "B")


def test_perception_test_reads_the_release_and_a_list(tmp_path):
    data = perception_test(tmp_path / "PerceptionTest")
    first, second = BENCHMARKS["perception_test"].load(tmp_path).questions
    assert (first.id, first.file, first.answer, first.type) == ("video_1/0", "videos/video_1.mp4", "B", "physics")
    assert second.answer == "" and second.reference == {"letter": None, "options": ["x", "y", "z"]}
    row = {"video_name": "video_1", "question_id": "4", "question": "?", "options": ["x", "y"], "answer_id": "1"}
    found = BENCHMARKS["perception_test_lmms_eval"].load(write_json(data / "rows.json", [row])).questions
    assert [(one.id, one.answer, one.file) for one in found] == [("video_1/4", "B", "videos/video_1.mp4")]
    write_json(data / "mc_question_valid.json", "text")
    with pytest.raises(UserError, match="expected an object of videos or a list of questions, found str"):
        BENCHMARKS["perception_test"].load(data)


def test_two_rules_of_letters_score_one_answer_differently(tmp_path):
    data = perception_test(tmp_path / "data")
    for name in ("perception_test", "perception_test_lmms_eval"):
        ask(name, data, tmp_path / name, {0: "(B) y", 1: "C"})
    by_rule = [score_run(tmp_path / name, progress=False) for name in ("perception_test", "perception_test_lmms_eval")]
    assert [score.value("accuracy").official.value for score in by_rule] == [50, 0]
    assert [score.overall.unread for score in by_rule] == [0, 1]


def test_the_command_says_what_two_records_differ_in(capsys):
    assert vidtune(["benchmarks", "compare", "mlvu", "mlvu_lmms_eval"]) == 0
    said = capsys.readouterr().out
    assert "scoring.letters\n  mlvu: 'normalised'\n  mlvu_lmms_eval: 'ranked'" in said
    assert "choices.wording" in said and "generation" not in said and "preprocessing" not in said
    assert vidtune(["benchmarks", "compare", "mlvu", "mlvu_lmms_eval", "--system", "videochat_flash"]) == 0
    assert "preprocessing.num_frames\n  mlvu: 512\n  mlvu_lmms_eval: 32" in capsys.readouterr().out


def test_a_page_shows_all_questions_together_and_every_task(tmp_path):
    data = perception_test(tmp_path / "data")
    for name in ("perception_test", "perception_test_lmms_eval"):
        ask(name, data, tmp_path / name, {0: "(B) y", 1: "C"})
        score_run(tmp_path / name, progress=False)
    folders = [tmp_path / name for name in ("perception_test", "perception_test_lmms_eval")]
    page = build_report(folders, tmp_path / "report.html").read_text()
    assert all(f"<th>{kind}</th>" in page for kind in ("all", "physics", "memory"))
    assert page.count("protocols differ in") == 1


def test_guesses_are_drawn_by_seed_and_id_and_count_only_officially(tmp_path):
    benchmark = replace(BENCHMARKS["mlvu"], guesses=True, reads="written_out", mean=None)
    reference = {"letter": "B", "options": ["x", "y"]}
    items = [Item(n, str(n), "v", "", reference, "no idea") for n in range(40)]

    def shares(seed):
        run = benchmark.under(benchmark.protocol(prompt_format="").with_overrides({"generation": {"seed": seed}}, ""))
        found = run.measure(items)
        official, strict = (values[""].metrics["accuracy"].per_item for values in (found.official, found.strict))
        assert (
            not strict.any()
            and run.measure(items).official[""].metrics["accuracy"].per_item.tolist() == official.tolist()
        )
        assert len(found.official[""].unparsed) == 40
        return official.tolist()

    assert 8 < sum(shares(1)) < 32 and shares(1) != shares(2)
