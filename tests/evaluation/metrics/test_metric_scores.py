"""Benchmarks that metrics score: official and strict values, what is left out, comparison, from stored files alone."""

import json
import shutil

import numpy as np
import pytest
from event_sets import EVENTS, event_protocol, event_run, write_events
from qa_sets import counted_set, stub_run

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks import omni_events
from vidtune.evaluation.metrics.base import MetricValues
from vidtune.evaluation.metrics.programs.meteor import STATISTICS
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.scores.comparison import compare_runs
from vidtune.evaluation.scores.score_file import read_score
from vidtune.evaluation.scores.scoring import NothingScoredError, score_run, source_for
from vidtune.evaluation.statistics import difference_of_sums, mean_difference, of_sums, ratio

NO_JAVA = "METEOR needs Java; install a runtime"
# IoU 0.5, none readable and 0.98 (v1), 0.98 and 0 (v2); there is no v3.
REPLIES = {
    "v1/grounding/0": "From 10 to 20.",
    "v1/grounding/1": "in the middle",
    "v2/grounding/0": "From 33 to 99.",
    "v2/grounding/1": "From 50 to 60.",
    "v1/seg_captioning/1": "He talks to a man.",
}


class CountedMeteor:
    """A stand-in for the Java program: METEOR is the share of equal words."""

    started = 0

    def __enter__(self):
        type(self).started += 1
        return self

    def __exit__(self, *failure):
        pass

    def scores(self, references, predictions):
        rows = np.zeros((len(predictions), STATISTICS))
        for row, wanted, given in zip(rows, references, predictions, strict=True):
            words, others = set(given.split()), set(wanted[0].split())
            # exact content words of both sides, and as many words: precision and recall are the share of them
            row[:2] = len(words), len(others)
            row[4:6] = row[21:23] = len(words & others)
        return MetricValues.of(rows, omni_events.meteor_of_sums)


@pytest.fixture(autouse=True)
def java(monkeypatch):
    """Whether Java is there, for all of this file: it is not, until ``java()`` is called."""
    monkeypatch.setattr(omni_events, "meteor_problem", lambda: NO_JAVA)

    def install():
        monkeypatch.setattr(omni_events, "meteor_problem", lambda: None)
        monkeypatch.setattr(omni_events, "Meteor", CountedMeteor)

    return install


@pytest.fixture
def data(tmp_path):
    return write_events(tmp_path / "set", missing=["v3"])


@pytest.fixture
def run(data, tmp_path):
    return event_run(data, tmp_path / "run", replies=REPLIES).run_dir


def test_official_and_strict_values_stand_side_by_side(run):
    task = score_run(run).group("grounding")
    assert (task.questions, task.scored, task.missing, task.videos) == (6, 5, 1, 3)
    miou = task.value("mIoU")
    assert miou.official.value == pytest.approx(100 * (0.5 + 0 + 0.98 + 0.98 + 0) / 5)
    assert miou.strict.value == pytest.approx(100 * (0.5 + 0 + 0.98 + 0.98 + 0) / 6)
    assert (miou.official.clusters, miou.strict.clusters) == (2, 3)
    assert miou.official.low is None  # two videos
    assert miou.strict.low < miou.strict.value < miou.strict.high
    assert task.value("R1@0.5").official.value == pytest.approx(60)
    assert task.unread == 1


def test_every_task_has_its_published_metrics(run):
    names = {task.type: [metric.name for metric in task.values] for task in score_run(run).groups}
    assert names == {
        "captioning": ["SODA_c", "CIDEr", "METEOR"],
        "grounding": ["mIoU", "R1@0.3", "R1@0.5", "R1@0.7"],
        "seg_captioning": ["BLEU4", "METEOR", "Rouge", "CIDEr"],
    }


def test_errors_count_as_nothing_in_the_strict_value_and_questions_not_asked_too(data, tmp_path):
    failed = event_run(data, tmp_path / "failed", errors={"v2.mp4": "no frames"}).run_dir
    score = score_run(failed)
    task = score.group("grounding")
    assert (task.scored, task.errors, task.missing, task.unanswered) == (3, 2, 1, 0)
    assert task.value("R1@0.7").official.value == 100
    assert task.value("R1@0.7").strict.value == 50
    assert score.coverage == 7 / 15
    begun = event_run(data, tmp_path / "begun").run_dir
    answers = (begun / "predictions.jsonl").read_text().splitlines(keepends=True)
    (begun / "predictions.jsonl").write_text("".join(one for one in answers if json.loads(one)["index"] < 5))
    tasks = {task.type: (task.scored, task.unanswered, task.missing) for task in score_run(begun).groups}
    assert tasks == {"captioning": (1, 1, 1), "grounding": (3, 2, 1), "seg_captioning": (1, 4, 1)}


def test_a_run_without_any_answer_of_a_task_says_so(data, tmp_path):
    run = event_run(data, tmp_path / "run", errors={"v": "no frames"}).run_dir
    with pytest.raises(NothingScoredError, match=r"nothing was scored: .*12 failed: no frames") as raised:
        score_run(run)
    score = raised.value.score
    for task in score.groups:
        for metric in task.values:
            assert metric.official is None and metric.reason
    assert score.group("grounding").value("mIoU").strict.value == 0


def test_without_java_its_metrics_are_left_out_with_the_reason_and_added_later(run, java):
    before = score_run(run)
    assert before.left_out == {"SODA_c": NO_JAVA, "METEOR": NO_JAVA}
    for task in ("captioning", "seg_captioning"):
        meteor = before.group(task).value("METEOR")
        assert (meteor.official, meteor.strict, meteor.reason) == (None, None, NO_JAVA)
    predictions = (run / "predictions.jsonl").read_bytes()
    java()
    after = score_run(run)
    assert after.left_out == {} and after.identity["meteor"] == "1.5"
    assert after.group("captioning").value("SODA_c").official.value > 0
    segments = after.group("seg_captioning").value("METEOR")
    assert segments.strict.low < segments.strict.value < segments.strict.high
    assert segments.strict.value < segments.official.value
    assert after.group("grounding") == before.group("grounding")
    assert (run / "predictions.jsonl").read_bytes() == predictions


def test_java_is_started_once_and_only_where_it_is_needed(tmp_path, data, java, monkeypatch):
    java()
    monkeypatch.setattr(CountedMeteor, "started", 0)
    score_run(event_run(data, tmp_path / "all").run_dir)
    assert CountedMeteor.started == 1
    (data / "annotations.json").rename(data / "longvale-annotations-eval.json")
    score_run(event_run(data, tmp_path / "grounding", name="longvale_grounding").run_dir)
    assert CountedMeteor.started == 1


def test_a_program_that_ends_leaves_out_its_metrics_alone(run, java, monkeypatch):
    def end(self, references, predictions):
        raise UserError("METEOR: the Java program ended (exit code 1): out of memory")

    java()
    monkeypatch.setattr(CountedMeteor, "scores", end)
    score = score_run(run)
    assert set(score.left_out) == {"SODA_c", "METEOR"} and "out of memory" in score.left_out["METEOR"]
    assert score.group("seg_captioning").value("CIDEr").official is not None


def test_a_score_is_stored_with_all_it_depends_on(run):
    score = score_run(run)
    stored = json.loads((run / "scores" / "metrics.json").read_text())
    assert read_score(run, "metrics") == score
    assert stored["judge"] == "metrics" and stored["protocol_hash"] == event_protocol().hash
    assert stored["measuring"] == {"tokenizer": "ptb", "meteor": None}
    assert "jackknife over videos" in stored["intervals"]


def test_scoring_needs_neither_the_test_set_nor_the_videos(run, data):
    before = score_run(run)
    files = {name: (run / name).read_bytes() for name in ("measurements.jsonl", "scores/metrics.json")}
    shutil.rmtree(data)
    assert score_run(run) == before
    assert all((run / name).read_bytes() == content for name, content in files.items())


def test_answers_are_joined_by_sentence_whatever_their_order(data, run, tmp_path):
    lines = (run / "predictions.jsonl").read_text().splitlines(keepends=True)
    before = score_run(run)
    (run / "predictions.jsonl").write_text("".join(reversed(lines)))
    assert score_run(run) == before


def test_every_question_has_its_own_measurements(run):
    score_run(run)
    by_id = {line["id"]: line["index"] for line in RunFolder(run).references()}
    measured = {one.index: one for one in source_for(RunFolder(run)).stored()}
    assert measured[by_id["v1/grounding/0"]].values == {"IoU": 50.0}
    assert measured[by_id["v1/seg_captioning/0"]].values["Rouge"] == 100.0
    assert measured[by_id["v3/grounding/0"]].entry.asking == "without file"
    assert measured[by_id["v3/grounding/0"]].official == {}


def test_a_run_without_questions_or_references_is_refused(data, run):
    (run / "predictions.jsonl").unlink()
    (run / "missing.jsonl").write_text("")
    with pytest.raises(UserError, match="no question was asked yet"):
        score_run(run)
    lines = (run / "references.jsonl").read_text().splitlines(keepends=True)
    (run / "references.jsonl").write_text("".join(lines[:-2]))
    with pytest.raises(UserError, match=r"references\.jsonl lacks 2 questions"):
        score_run(run)
    (run / "references.jsonl").unlink()
    with pytest.raises(UserError, match=r"no references\.jsonl here"):
        score_run(run)


def test_a_judged_run_has_no_references(tmp_path):
    run = stub_run(counted_set(tmp_path / "set", 3), tmp_path / "run").run_dir
    assert not (run / "references.jsonl").exists()
    assert score_run(run).judge == "rules-v1"


@pytest.fixture
def pair(data, tmp_path, run):
    """A run, and one without sound that finds nothing."""
    wrong = {f"{video}/grounding/{number}": "From 97 to 98" for video in EVENTS for number in range(3)}
    deaf = event_run(data, tmp_path / "deaf", replies=wrong, protocol=event_protocol(without=("audio",))).run_dir
    for folder in (run, deaf):
        score_run(folder)
    return run, deaf


def test_two_runs_are_compared_metric_by_metric(pair):
    comparison = compare_runs(*pair)
    assert (comparison.questions, comparison.scored) == (15, 12)
    assert comparison.differs_in == ("without",)
    scores = [read_score(run, "metrics").group("grounding").value("mIoU") for run in pair]
    miou = comparison.difference("mIoU", "grounding")
    assert miou.official.value == pytest.approx(scores[0].official.value - scores[1].official.value)
    assert miou.strict.value == pytest.approx(scores[0].strict.value - scores[1].strict.value)
    assert miou.official.low is None and miou.official.clusters == 2
    assert miou.strict.low <= miou.strict.value <= miou.strict.high
    bleu = comparison.difference("BLEU4", "seg_captioning")
    assert bleu.official.value < 0 and bleu.official.clusters == 2
    assert comparison.difference("METEOR", "captioning").official is None
    assert compare_runs(*reversed(pair)).difference("mIoU", "grounding").official.value == -miou.official.value


def test_runs_that_were_not_scored_or_answered_other_sets_are_not_compared(pair, data, tmp_path):
    fresh = event_run(data, tmp_path / "fresh").run_dir
    with pytest.raises(UserError, match="fresh: not scored yet"):
        compare_runs(pair[0], fresh)
    other = event_run(write_events(tmp_path / "other", {"v1": EVENTS["v1"]}), tmp_path / "third").run_dir
    score_run(other)
    with pytest.raises(UserError, match="different versions of world_events"):
        compare_runs(pair[0], other)


def test_a_metric_that_only_one_run_has_makes_no_difference(pair, java):
    java()
    score_run(pair[0])
    assert compare_runs(*pair).difference("METEOR", "seg_captioning").official is None
    score_run(pair[1])
    assert compare_runs(*pair).difference("METEOR", "seg_captioning").official is not None


def test_the_bootstrap_of_sums_is_that_of_ratios():
    random = np.random.default_rng(1)
    values, clusters = random.random(40), [f"v{n % 9}" for n in range(40)]
    rows = np.stack([values, np.ones(40)], axis=1)

    def mean(sums):
        return sums[..., 0] / sums[..., 1]

    assert of_sums(rows, mean, clusters) == ratio(values.tolist(), [1.0] * 40, clusters)
    other = random.random(40)
    paired = difference_of_sums(rows, np.stack([other, np.ones(40)], axis=1), mean, clusters)
    expected = mean_difference(values.tolist(), other.tolist(), clusters)
    for name in ("value", "low", "high"):
        assert getattr(paired, name) == pytest.approx(getattr(expected, name), abs=1e-12)
    assert of_sums(rows[:3], mean, ["v"] * 3).low is None
    assert of_sums(rows[:0], mean, []) is None
