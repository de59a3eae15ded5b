"""The ledger: whatever happens to its questions, each has one state, and every number of a score follows from them."""

import json
import random
from collections import Counter

import pytest
from published_scores import aggregate
from qa_sets import StubEngine, stub_run, write_set

from vidtune.evaluation.judges.base import Judge, Judgement, Usage
from vidtune.evaluation.judges.replies import YES_AND_SCORE
from vidtune.evaluation.ledger import COUNTED, Asking, Judging
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.run_ledger import judged_ledger
from vidtune.evaluation.scores.scoring import score_run

VALUES = {
    Judging.JUDGED: [{"pred": "yes", "score": 5}, {"pred": "no", "score": 0.9}, {"pred": "Yes", "score": "3"}],
    Judging.NO_VERDICT: [{"pred": "maybe", "score": 2}, {"score": True}, {"pred": 1, "score": 4.8}],
    Judging.OUT_OF_RANGE: [
        {"pred": "yes", "score": 6},
        {"pred": "no", "score": -0.1},
        {"score": float("inf")},
        {"score": "7"},
    ],
    Judging.UNREADABLE: [
        5,
        None,
        ["yes", 4],
        {},
        {"pred": "yes"},
        {"pred": "yes", "score": "2.5"},
        {"score": float("nan")},
    ],
}


@pytest.mark.parametrize(("state", "value"), [(state, value) for state, values in VALUES.items() for value in values])
def test_every_value_of_a_judgement_has_one_state(state, value):
    assert YES_AND_SCORE.state(value) is state


class Scripted(Judge):
    """Gives every answer a judgement by its question; leaves some out, fails at some."""

    name = "scripted"

    def __init__(self, values):
        self.identity = {"kind": "scripted"}
        self.values = values

    def judge(self, items, done):
        for item in items:
            state, value = self.values[item.question]
            if state is Judging.FAILED:
                done(Judgement(item, error="no connection"))
            elif state is not Judging.NOT_JUDGED:
                done(Judgement(item, value))
        return Usage()


@pytest.mark.parametrize("seed", range(5))
def test_every_number_follows_from_the_states(tmp_path, seed):
    chance = random.Random(seed)
    count = 40
    entries = [(f"v{n % 13}", f"question {n}?", "x") for n in range(count)]
    missing = [f"v{n}" for n in chance.sample(range(13), 2)]
    data = write_set(tmp_path / "set", entries, missing=missing, types=[chance.choice("ab") for _ in entries])
    questions = json.loads((data / "test_q.json").read_text())
    for question in questions:
        question["question_id"] = f"id{chance.randrange(30)}"  # some repeat
    (data / "test_q.json").write_text(json.dumps(questions))
    empty = {f"question {n}?": "" for n in chance.sample(range(count), 5)}
    most = count // 2 if seed % 2 else None
    engine = StubEngine(empty, errors={f"v{chance.randrange(13)}.mp4": "no frames"}, most=most)
    stub_run(data, tmp_path / "run", engine)
    states = [*VALUES, Judging.FAILED, Judging.NOT_JUDGED]
    values = {}
    for _, question, _ in entries:
        state = chance.choice(states)
        values[question] = (state, chance.choice(VALUES.get(state, [None])))

    score = score_run(tmp_path / "run", Scripted(values))
    ledger, judgements = judged_ledger(RunFolder(tmp_path / "run"), "scripted")
    assert sum(map(ledger.count, Asking)) == ledger.planned == score.overall.questions == count
    assert sum(map(ledger.count, Judging)) == ledger.answered
    right = [
        entry.index
        for entry in ledger.entries
        if entry.counted and str(judgements[entry.index].value.get("pred")).lower() == "yes"
    ]
    group = score.overall
    assert group.value("accuracy").strict.value == pytest.approx(len(right) / count)
    last = {entry.id: entry for entry in ledger.entries if entry.answered}
    assert Counter(entry.repeated for entry in ledger.entries)[True] == ledger.answered - len(last) == score.duplicates
    made = {index: one.value for index, one in judgements.items() if one.error is None}
    published = aggregate(made[entry.index] for entry in last.values() if entry.index in made)
    official = aggregate(made[entry.index] for entry in last.values() if entry.judging in COUNTED)
    assert (group.yes, group.no) == (official.yes, official.no)
    assert group.value("average_score").official.value == pytest.approx(official.average_score)
    if official.count < published.count:
        assert group.value("average_score").published == pytest.approx(published.average_score)
        assert group.value("accuracy").published == pytest.approx(published.accuracy)
    for part in (group, *score.groups):
        left_out = part.missing + part.errors + part.unanswered + part.unjudged + part.repeated
        assert part.unjudged == part.out_of_range + part.unreadable + part.judge_failed + part.not_judged
        of_type = [entry for entry in last.values() if part.type in (None, entry.type) and entry.judging in COUNTED]
        assert part.questions == left_out + len(of_type)
    counted = sum(part.questions for part in score.groups), sum(part.scored for part in score.groups)
    assert counted == (group.questions, group.scored)


def test_answers_that_count_and_are_unusual_are_named(tmp_path):
    data = write_set(tmp_path / "set", [("v", f"question {n}?", "x") for n in range(6)])
    stub_run(data, tmp_path / "run", StubEngine({"question 2?": ""}))
    values = {f"question {n}?": (Judging.JUDGED, {"pred": "yes", "score": 5}) for n in range(6)}
    values |= {f"question {n}?": (Judging.NO_VERDICT, {"pred": "maybe", "score": 2}) for n in range(1, 6)}
    score = score_run(tmp_path / "run", Scripted(values))
    assert "1 empty answer: v_2" in score.reasons
    assert "5 neither yes nor no: v_1, v_2, v_3, ..." in score.reasons
    entries = judged_ledger(RunFolder(tmp_path / "run"), "scripted")[0].entries
    assert entries[2].unusual == (Asking.EMPTY, Judging.NO_VERDICT) and entries[0].unusual == ()
