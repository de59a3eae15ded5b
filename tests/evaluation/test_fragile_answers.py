"""Fragile answers: the margin between the first and the second token, from the logits to the score."""

from dataclasses import replace

import pytest
import torch
from qa_sets import StubEngine, counted_set, records, stub_run

from vidtune.evaluation.judges.base import Judge, Judgement, Usage
from vidtune.evaluation.ledger import Judging
from vidtune.evaluation.report.page import build_report
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.run_ledger import judged_ledger, ledger_of
from vidtune.evaluation.scores.score_file import read_score
from vidtune.evaluation.scores.scoring import NothingScoredError, score_run
from vidtune.generation.decoding import TokenChooser, decode_steps
from vidtune.generation.settings import GenerationSettings
from vidtune.generation.stopping import AnswerInProgress


class Letters:
    """A tokenizer of letters."""

    def decode(self, ids, **_):
        return "".join(chr(97 + one) for one in ids)


class Written:
    """A batch of prompts whose logits are written down: steps of (n, V)."""

    def __init__(self, *steps):
        self.steps = [torch.tensor(step) for step in steps]
        self.kept = []

    def start(self):
        return self.steps.pop(0)

    def step(self, tokens):
        return self.steps.pop(0)

    def keep(self, prompts):
        self.kept.append(list(prompts))


def margins_of(steps, dtype=None, **settings):
    """Answers of two prompts, the second of which ends after one token (0 ends an answer)."""
    answers = [AnswerInProgress(str(n), Letters(), {0}, (), 3) for n in range(2)]
    chooser = TokenChooser(GenerationSettings(**settings), dtype)
    for _ in decode_steps(Written(*steps), answers, chooser):
        pass
    return [answer.answer().margin for answer in answers]


STEPS = ([[1.0, 3.0, 2.0], [8.0, 7.75, 1.0]], [[0.5, 4.0, 3.99]], [[2.0, 1.0, 0.0]])


def test_the_smallest_margin_of_an_answer_counts_in_rounding_steps():
    eps = torch.finfo(torch.bfloat16).eps
    first, second = margins_of(STEPS, torch.bfloat16)
    assert first == pytest.approx(0.01 / (4 * eps), rel=1e-4)  # at its second token
    assert second == pytest.approx(0.25 / (8 * eps))  # finished after its first token
    assert margins_of(STEPS)[0] > 1000 * first  # float32 has finer steps
    assert margins_of(STEPS, do_sample=True, top_k=1) == [None, None]


class MarginEngine(StubEngine):
    """Gives answers with margins 0, 1, 2, ...; every third answer has none."""

    def answer(self, requests):
        for number, answer in enumerate(super().answer(requests)):
            yield replace(answer, margin=None if number % 3 == 2 else number * 40.0 / 3)


def test_margins_are_stored_and_fragile_answers_counted(tmp_path):
    data = counted_set(tmp_path / "set", 9)
    run_dir = stub_run(data, tmp_path / "run", MarginEngine()).run_dir
    stored = [record.get("margin") for record in records(run_dir / "predictions.jsonl")]
    assert stored == [0.0, 13.33, None, 40.0, 53.33, None, 80.0, 93.33, None]
    run = RunFolder(run_dir)
    assert [entry.fragile for entry in ledger_of(run).entries].count(True) == 1
    score = score_run(run_dir)
    assert (score.fragile, score.with_margin) == (1, 6)
    line = "1 of 6 greedy answers are fragile: rounding alone can change them (clip0_0)"
    assert f"  {line}" in str(score).splitlines() and str(score).count("fragile") == 1
    assert read_score(run_dir, score.judge) == score
    page = build_report([run_dir], tmp_path / "report.html").read_text()
    assert f"A: {line}" in page and "1 fragile" not in page


class Refusing(Judge):
    """Judges nothing."""

    name, identity = "refusing", {"kind": "refusing"}

    def judge(self, items, done):
        for item in items:
            done(Judgement(item, error="no connection"))
        return Usage()


def test_a_fragile_answer_without_a_verdict_is_no_reason_of_its_own(tmp_path):
    run_dir = stub_run(counted_set(tmp_path / "set", 3), tmp_path / "run", MarginEngine()).run_dir
    with pytest.raises(NothingScoredError) as refused:
        score_run(run_dir, Refusing())
    assert str(refused.value).endswith("nothing was scored: 3 judge failed: no connection (clip0_0, clip0_1, clip0_2)")
    [first, *_] = judged_ledger(RunFolder(run_dir), "refusing")[0].entries
    assert first.fragile and first.unusual == () and replace(first, judging=Judging.JUDGED).unusual == ("fragile",)


def test_large_margins_are_stored_as_one_number_and_runs_without_them_say_nothing(tmp_path):
    data = counted_set(tmp_path / "set", 4)

    class Sure(StubEngine):
        def answer(self, requests):
            return (replace(answer, margin=float("inf")) for answer in super().answer(requests))

    sure = stub_run(data, tmp_path / "sure", Sure()).run_dir
    assert {record["margin"] for record in records(sure / "predictions.jsonl")} == {100.0}
    unknown = stub_run(data, tmp_path / "unknown").run_dir
    assert not any("margin" in record for record in records(unknown / "predictions.jsonl"))
    score = score_run(unknown)
    assert (score.fragile, score.with_margin) == (0, 0) and "fragile" not in str(score)
