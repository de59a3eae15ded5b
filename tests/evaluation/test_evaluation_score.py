"""Scoring, judging again, and comparing runs, from stored files."""

import json
from dataclasses import replace
from typing import ClassVar

import pytest
from judge_server import Reply, judge_server
from qa_sets import CHECKPOINT, StubEngine, counted_set, records, stub_protocol, stub_run, write_set

from vidtune.cli.main import run as cli
from vidtune.errors import UserError
from vidtune.evaluation.judges.base import Judge, Judgement, Usage
from vidtune.evaluation.judges.openai_compatible import Limits, OpenAICompatibleJudge
from vidtune.evaluation.judges.replies import YES_AND_SCORE, parse_literal
from vidtune.evaluation.runs.checkpoint_identity import CheckpointIdentity
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.official_results import adopt_official_results, import_official_results
from vidtune.evaluation.runs.run_ledger import ledger_of
from vidtune.evaluation.scores.comparison import compare_runs
from vidtune.evaluation.scores.judging import estimate_run, judge_run
from vidtune.evaluation.scores.score_file import read_score, score_record
from vidtune.evaluation.scores.score_lines import table_lines
from vidtune.evaluation.scores.scoring import NothingScoredError, score_run

ENTRIES = [
    ("a", "one?", "red"),
    ("a", "two?", "2"),
    ("b", "three?", "left"),
    ("b", "four?", "circle"),
    ("c", "five?", "red"),
    ("d", "six?", "blue"),
    ("e", "seven?", "green"),
]
REPLIES = {"one?": "red", "two?": "three", "three?": "left", "four?": "", "five?": "it is red"}
TYPES = ["colour", "count", "direction", "shape", "colour", "colour", "colour"]


@pytest.fixture
def run(tmp_path):
    """Five answers (3 right, 1 wrong, 1 empty), one unreadable video, one missing."""
    data = write_set(tmp_path / "set", ENTRIES, types=TYPES, missing=["e"])
    engine = StubEngine(REPLIES, errors={"d.mp4": "no frames"})
    return stub_run(data, tmp_path / "run", engine).run_dir


@pytest.fixture
def server():
    with judge_server(lambda body, earlier: Reply(content="{'pred': 'yes', 'score': 4.8}")) as server:
        yield server


def chat_judge(server, **options):
    options = {"limits": Limits(attempts=2, backoff=0.01, timeout=2), **options}
    return OpenAICompatibleJudge("chat", base_url=server.url, name="chat", **options)


def test_a_table_has_a_row_for_each_type_and_a_column_for_each_run(run):
    score = score_run(run)
    head, everything, *types = table_lines({"seeing": score, "blind": score})
    assert head.split() == ["questions", "seeing", "blind"]
    assert everything.split() == ["all", "7", "0.60", "0.60"]
    assert [line.split() for line in types][1] == ["count", "1", "0.00", "0.00"]
    assert len({len(line) for line in (head, everything, *types)}) == 1


def test_official_and_strict_scores_stand_side_by_side(run):
    overall = score_run(run).overall
    assert (overall.questions, overall.scored, overall.yes, overall.no) == (7, 5, 3, 2)
    assert (overall.missing, overall.errors, overall.unjudged, overall.empty) == (1, 1, 0, 1)
    assert overall.value("accuracy").official.value == 3 / 5
    assert overall.value("accuracy").strict.value == 3 / 7
    assert overall.value("average_score").official.value == (5 + 5 + 5) / 5
    assert overall.value("average_score").strict.value == 15 / 7
    assert overall.value("accuracy").official.low <= 3 / 5 <= overall.value("accuracy").official.high
    assert (overall.value("accuracy").official.clusters, overall.videos) == (3, 5)
    assert "among them     1 empty" in str(score_run(run))


def test_scores_by_type_add_up(run):
    score = score_run(run)
    assert {part.type: part.questions for part in score.groups} == {
        "colour": 4,
        "count": 1,
        "direction": 1,
        "shape": 1,
    }
    assert score.value("accuracy", "colour").official.value == 1.0
    assert score.value("accuracy", "colour").strict.value == 0.5


def test_a_score_names_its_judge_protocol_and_checkpoint(run):
    stored = json.loads((run / "scores" / "rules-v1.json").read_text()) if score_run(run) else {}
    assert stored["judge"] == "rules-v1"
    assert stored["protocol_hash"] == stub_protocol().hash
    assert stored["checkpoint"] == CHECKPOINT.model_dump()
    assert "jackknife over videos" in stored["intervals"]
    assert score_record(read_score(run, "rules-v1")) == stored


def test_scoring_twice_gives_the_same_file(run):
    score_run(run)
    before = (run / "scores" / "rules-v1.json").read_bytes()
    score_run(run)
    assert (run / "scores" / "rules-v1.json").read_bytes() == before


def test_predictions_are_judged_again_by_another_judge(run, server):
    by_rules = score_run(run)
    before = (run / "predictions.jsonl").read_bytes()
    by_chat = score_run(run, chat_judge(server))
    assert (by_rules.overall.yes, by_chat.overall.yes) == (3, 5)
    assert by_chat.overall.value("average_score").official.value == 4
    assert RunFolder(run).judges() == ["chat", "rules-v1"]
    assert (run / "predictions.jsonl").read_bytes() == before
    assert score_run(run, "chat") == by_chat
    assert len(server.requests) == 5


def test_judging_resumes_and_tries_the_unjudged_again(run, tmp_path):
    working = False

    def reply(body, earlier):
        return Reply() if working or "two?" not in str(body) else Reply(content="?")

    with judge_server(reply) as server:
        summary = judge_run(run, chat_judge(server))
        assert (summary.items, summary.unjudged, summary.usage.calls) == (5, 1, 6)
        score = score_run(run, "chat")
        assert (score.overall.unjudged, score.overall.scored) == (1, 4)
        assert score.overall.value("accuracy").strict.value == 4 / 7
        assert estimate_run(run, chat_judge(server)).calls == 1
        working = True
        again = judge_run(run, chat_judge(server))
        assert (again.reused, again.unjudged, again.usage.calls) == (4, 0, 1)
    assert score_run(run, "chat").overall.unjudged == 0


def test_a_torn_judgement_is_made_again(run):
    score_run(run)
    file = run / "judgements" / "rules-v1.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    assert judge_run(run).reused == 4
    assert file.read_bytes() == whole


def test_a_judgement_of_another_text_does_not_count(run):
    score_run(run)
    file = run / "judgements" / "rules-v1.jsonl"
    changed = [{**record, "pred": "other"} if record["id"] == "a_0" else record for record in records(file)]
    file.write_text("".join(json.dumps(record) + "\n" for record in changed))
    assert judge_run(run).reused == 4


def test_a_judge_cannot_take_another_s_name(run, server):
    judge_run(run, chat_judge(server))
    with pytest.raises(UserError, match="another judge already has the name 'chat'"):
        judge_run(run, chat_judge(server, parameters={"temperature": 0}))


def test_an_unknown_judge_is_named_with_those_there(run):
    with pytest.raises(UserError, match="no judgements by 'gpt-9'; nothing was judged yet"):
        score_run(run, "gpt-9")
    score_run(run)
    with pytest.raises(UserError, match="no judgements by 'gpt-9'; there are rules-v1"):
        score_run(run, "gpt-9")


def test_only_yes_and_no_make_an_accuracy(run):
    with judge_server(lambda body, earlier: Reply(content="{'pred': 'maybe', 'score': 2}")) as server:
        overall = score_run(run, chat_judge(server)).overall
    assert overall.value("accuracy").official is None and overall.reason == "none of 5 judgements says yes or no"
    assert overall.value("average_score").official.value == 2


def by_question(replies):
    """Replies of a chat model, by what the question contains."""
    return lambda body, earlier: Reply(content=next(text for part, text in replies.items() if part in str(body)))


SAID = {
    "one?": "{'pred': 'yes', 'score': 1000000000}",
    "two?": "['yes', 4]",
    "three?": "{'pred': 'yes', 'score': 4}",
    "four?": "{'pred': 'maybe', 'score': 2}",
    "five?": "{'pred': 'no', 'score': -1}",
}


def test_verdicts_outside_the_scale_or_without_score_are_unjudged_and_said(run):
    with judge_server(by_question(SAID)) as server:
        score = score_run(run, chat_judge(server))
    overall = score.overall
    assert (overall.scored, overall.unclear, overall.out_of_range, overall.unreadable) == (2, 1, 2, 1)
    assert (overall.unjudged, overall.yes, overall.no, overall.questions) == (3, 1, 0, 7)
    accuracy, average = overall.value("accuracy"), overall.value("average_score")
    assert (accuracy.official.value, average.official.value) == (1, 3)
    assert (accuracy.strict.value, average.strict.value) == (1 / 7, 6 / 7)
    assert (accuracy.published, average.published) == (2 / 3, (10**9 + 0 + 4 + 2 - 1) / 5)
    shown = str(score)
    assert (
        "1 without file, 1 failed, 2 scored outside the scale, 1 unreadable verdict; with these as wrong: 0.14" in shown
    )
    assert "2 scored outside the scale: the score is outside 0 to 5 (a_0: " in shown
    assert "1 unreadable verdict: the reply holds no score that can be read (a_1: " in shown and "['yes', 4]" in shown
    assert "as published   accuracy 0.67, average score 200000001.00" in shown
    assert read_score(run, "chat") == score


def test_a_reply_without_a_verdict_is_kept_whole_and_asked_again(run):
    text = "Yes, " + "very much " * 40
    with judge_server(by_question({**SAID, "two?": text})) as server:
        judge_run(run, chat_judge(server))
        kept = {line["id"]: line for line in records(run / "judgements" / "chat.jsonl")}
        assert kept["a_1"]["reply"] == text and "judgement" not in kept["a_1"]
        assert kept["a_0"]["reply"] == SAID["one?"]
    with judge_server(lambda body, earlier: Reply()) as server:
        judge = chat_judge(server)
        judge.identity = json.loads((run / "judgements" / "chat.judge.json").read_text())
        assert judge_run(run, judge).reused == 2 and len(server.requests) == 3
    assert score_run(run, "chat").overall.unjudged == 0


def test_a_stored_reply_is_read_again_by_better_rules_free_of_charge(run, monkeypatch):
    with judge_server(by_question({**SAID, "two?": "yes, 4"})) as server:
        judge_run(run, chat_judge(server, limits=Limits(attempts=1)))
        before = score_run(run, "chat").overall
        monkeypatch.setattr(
            "vidtune.evaluation.runs.judgements.form_of",
            lambda item: replace(
                YES_AND_SCORE,
                parse=lambda text: {"pred": "yes", "score": 4} if text == "yes, 4" else parse_literal(text),
            ),
        )
        after = score_run(run, "chat").overall
        assert len(server.requests) == 5
    assert (before.judge_failed, after.judge_failed, after.yes) == (1, 0, before.yes + 1)


@pytest.mark.parametrize("digits", [12, 400])
def test_no_score_of_a_reply_is_too_large(run, digits):
    reply = Reply(content=f"{{'pred': 'yes', 'score': {'9' * digits}}}")
    with (
        judge_server(lambda body, earlier: reply) as server,
        pytest.raises(NothingScoredError, match=r"nothing was scored: .*5 scored outside the scale") as raised,
    ):
        score_run(run, chat_judge(server, limits=Limits(failures=None)))
    overall = read_score(run, "chat").overall
    assert overall == raised.value.score.overall
    assert (overall.out_of_range, overall.value("average_score").official) == (5, None)
    assert overall.value("average_score").published == pytest.approx(float(min(10**digits, 10**300)))


class Careless(Judge):
    """A judge of another package that does not keep to its interface."""

    name = "careless"
    identity: ClassVar = {"kind": "careless"}

    def __init__(self, said, returned=None):
        self.said, self.returned = said, returned

    def judge(self, items, done):
        for item in items[:2]:
            done(Judgement(item, self.said))
        return self.returned


def test_what_a_judge_of_another_package_does_is_checked(run):
    with pytest.raises(UserError, match="judge careless: its method judge returned NoneType, expected a Usage"):
        score_run(run, Careless({"pred": "yes", "score": 5}))
    with pytest.raises(UserError, match=r"judge careless: TypeError: .* not JSON serializable"):
        score_run(run, Careless({"pred": {1}, "score": 5}, Usage()))
    overall = score_run(run, Careless({"pred": "no", "score": float("nan")}, Usage())).overall
    assert (overall.scored, overall.unreadable, overall.not_judged) == (2, 2, 1)


def test_ranks_give_the_same_ledger_as_one_process(tmp_path):
    data = write_set(tmp_path / "set", ENTRIES, types=TYPES, missing=["e"])
    stub_run(data, tmp_path / "one", StubEngine(REPLIES, errors={"d.mp4": "no frames"}))
    for rank in (1, 2, 0):
        summary = stub_run(
            data, tmp_path / "ranks", StubEngine(REPLIES, errors={"d.mp4": "no frames"}), rank=rank, ranks=3
        )
    assert summary.complete and score_run(tmp_path / "ranks") == score_run(tmp_path / "one")
    assert ledger_of(RunFolder(tmp_path / "ranks")) == ledger_of(RunFolder(tmp_path / "one"))


def test_a_stopped_run_of_the_first_version_counts_what_it_never_asked(tmp_path):
    run = stub_run(counted_set(tmp_path / "set", 10), tmp_path / "run", StubEngine(most=5)).run_dir
    (run / "questions.jsonl").unlink()
    accuracy = score_run(run).overall.value("accuracy")
    assert (accuracy.official.value, accuracy.strict.value, accuracy.strict.clusters) == (1.0, 0.5, 2 + 5)


def test_every_planned_question_has_one_state(run):
    counts = json.loads((run / "scores" / "rules-v1.json").read_text())["overall"] if score_run(run) else {}
    assert counts["judged"] + counts["unjudged"] + counts["missing"] + counts["errors"] == counts["questions"] == 7
    ledger = ledger_of(RunFolder(run))
    assert str(ledger) == "5 of 7 questions answered (1 empty), 1 without file, 1 failed"
    assert ledger.reasons() == (
        "1 without file: no video file (e_6: not videos/e (.mp4))",
        "1 failed: no frames (d_5)",
    )


def test_many_reasons_share_a_line(tmp_path):
    data = counted_set(tmp_path / "set", 40, per_video=2)
    errors = {f"clip{n}.mp4": f"{n} frames are not enough" for n in range(20)}
    lines = stub_run(data, tmp_path / "run", StubEngine(errors=errors)).ledger.reasons()
    assert lines[0] == "2 failed: 0 frames are not enough (clip0_0, clip0_20)"
    assert len(lines) == 6 and lines[-1] == "30 failed: 15 other reasons (clip5_5, clip5_25, clip6_6, ...)"


def test_a_video_that_vanished_after_its_answer_leaves_the_answer(tmp_path):
    data = write_set(tmp_path / "set", [("a", "one?", "x"), ("b", "two?", "y")])
    stub_run(data, tmp_path / "run", StubEngine({"one?": "x"}, errors={"b.mp4": "no frames"}))
    for video in "ab":
        (data / "videos" / f"{video}.mp4").unlink()
    summary = stub_run(data, tmp_path / "run")
    assert (summary.answered, summary.missing, summary.errors, summary.complete) == (1, 1, 0, True)
    overall = score_run(summary.run_dir).overall
    assert (overall.questions, overall.scored, overall.missing, overall.errors) == (2, 1, 1, 0)


def test_questions_not_asked_yet_count_as_wrong_in_strict_values(tmp_path):
    data = counted_set(tmp_path / "set", 10)
    run = stub_run(data, tmp_path / "run", StubEngine(most=5)).run_dir
    score = score_run(run)
    assert (score.unanswered, score.overall.questions, score.overall.videos) == (5, 10, 4)
    accuracy = score.overall.value("accuracy")
    assert (accuracy.official.value, accuracy.strict.value, accuracy.strict.clusters) == (1.0, 0.5, 4)
    assert "not counted    5 not asked yet; with these as wrong: 0.50" in str(score)


def test_a_repeated_id_counts_once_as_published_and_every_time_in_strict_values(tmp_path):
    data = write_set(tmp_path / "set", [("a", "one?", "x"), ("b", "two?", "y"), ("c", "three?", "z")])
    questions = json.loads((data / "test_q.json").read_text())
    questions[1]["question_id"] = questions[0]["question_id"]
    (data / "test_q.json").write_text(json.dumps(questions))
    run = stub_run(data, tmp_path / "run", StubEngine({"one?": "wrong", "two?": "y", "three?": "z"})).run_dir
    score = score_run(run)
    assert (score.duplicates, score.overall.questions, score.overall.yes, score.overall.no) == (1, 3, 2, 0)
    accuracy = score.overall.value("accuracy")
    assert (accuracy.official.value, accuracy.strict.value) == (1.0, 2 / 3)
    assert "1 with an id that comes again; over all 3 questions: 0.67" in str(score)
    assert [record["id"] for record in records(run / "judgements" / "rules-v1.jsonl")] == ["a_0", "c_2", "a_0#0"]


def test_official_result_folders_are_imported_and_adopted_where_texts_agree(run, tmp_path):
    folder = tmp_path / "gpt"
    folder.mkdir()
    texts = {"q": "one?", "a": "red", "pred": "red"}
    (folder / "a_0.json").write_text(json.dumps([{"pred": "yes", "score": 5}, texts]))
    (folder / "a_1.json").write_text(json.dumps([{"pred": "yes", "score": 5}, {**texts, "pred": "stale"}]))
    (folder / "stray.json").write_text(json.dumps([{"pred": "no", "score": 0}, texts]))
    assert set(import_official_results(folder)) == {"a_0", "a_1", "stray"}
    assert adopt_official_results(run, folder, "gpt-3.5-turbo-0613") == (1, 1)
    score = score_run(run, "gpt-3.5-turbo-0613")
    assert (score.overall.scored, score.overall.unjudged) == (1, 4)
    (folder / "broken.json").write_text('[{"pred": }]')
    with pytest.raises(UserError, match=r"broken\.json: line 1, column 11"):
        import_official_results(folder)


def test_results_of_a_published_script_are_judgements_of_the_named_judge(run, tmp_path, capsys):
    folder = tmp_path / "gpt"
    folder.mkdir()
    texts = {"q": "one?", "a": "red", "pred": "red"}
    (folder / "a_0.json").write_text(json.dumps([{"pred": "yes", "score": 4}, texts]))
    command = ["judge", str(run), "--results", str(folder)]
    for _ in range(2):  # the second time nothing is new, and the score is the same
        assert cli([*command, "--judge", "gpt-4"]) == 0
        assert "1 of its results are about answers" in (printed := capsys.readouterr().out)
        assert "judge gpt-4" in printed and "1 of 1 right" in printed
    assert cli(command) == 2 and "--judge the name" in capsys.readouterr().err
    (folder / "a_0.json").write_text(json.dumps([{"pred": "yes", "score": 4}, {**texts, "pred": "stale"}]))
    assert cli([*command, "--judge", "gpt-4"]) == 2 and "holds no result about" in capsys.readouterr().err


@pytest.fixture
def pair(tmp_path):
    """A run and its blind run over 10 questions: 10 and 4 right."""
    data = counted_set(tmp_path / "set", 10, per_video=2)
    seeing = stub_run(data, tmp_path / "seeing").run_dir
    guesses = StubEngine({f"question {n}?": "unknown" for n in range(6)})
    blind = stub_run(data, tmp_path / "blind", guesses, stub_protocol(blind=True)).run_dir
    for run in (seeing, blind):
        score_run(run)
    return seeing, blind


def test_two_runs_are_compared_question_by_question(pair):
    comparison = compare_runs(*pair)
    assert comparison.difference("accuracy").official.value == pytest.approx(0.6)
    assert comparison.difference("accuracy").official.low > 0
    agreement = comparison.agreement
    counts = (agreement.both_right, agreement.only_first, agreement.only_second, agreement.both_wrong)
    assert counts == (4, 6, 0, 0)
    assert comparison.differs_in == ("blind",)
    assert compare_runs(*reversed(pair)).difference("accuracy").official.value == pytest.approx(-0.6)


def test_runs_that_cannot_be_paired_are_refused(pair, tmp_path):
    other = stub_run(counted_set(tmp_path / "other", 11), tmp_path / "third").run_dir
    score_run(other)
    with pytest.raises(UserError, match="different versions of world_qa"):
        compare_runs(pair[0], other)
    unscored = stub_run(
        tmp_path / "set", tmp_path / "fourth", checkpoint=CheckpointIdentity(path="x", fingerprint="y")
    ).run_dir
    with pytest.raises(UserError, match=r"fourth: no score by 'rules-v1' \(there: none yet\)"):
        compare_runs(pair[0], unscored)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no run\.json here"):
        score_run(tmp_path)
