"""One shape of score for judged and measured benchmarks: named values, intervals, groups, a table for notebooks."""

import json

import pytest
from event_sets import event_run, write_events
from qa_sets import StubEngine, counted_set, stub_run

from vidtune.evaluation.scores.score import Score
from vidtune.evaluation.scores.score_file import read_score, score_record
from vidtune.evaluation.scores.scoring import score_run

NAMES = {"judged": ("accuracy", None), "measured": ("mIoU", "grounding")}


@pytest.fixture(params=["judged", "measured"])
def run(request, tmp_path):
    """(kind, folder of a run that is not scored yet)."""
    if request.param == "judged":
        answers = StubEngine({f"question {number}?": "<b>" for number in range(4)})
        return request.param, stub_run(counted_set(tmp_path / "set", 12), tmp_path / "run", answers).run_dir
    return request.param, event_run(write_events(tmp_path / "set", missing=["v3"]), tmp_path / "run").run_dir


def test_every_score_has_named_values_with_intervals_over_videos(run):
    kind, folder = run
    score = score_run(folder)
    assert isinstance(score, Score) and score.measured == (kind == "measured")
    value = score.value(*NAMES[kind])
    assert value.strict.low <= value.strict.value <= value.strict.high
    assert value.official.clusters > 1 and value.strict.value <= value.official.value
    group = score.group(NAMES[kind][1])
    assert group.scored <= group.questions and value in group.values
    assert 0 < score.coverage <= 1


def test_a_score_is_read_back_as_it_was_and_stored_as_it_was_read(run):
    score = score_run(run[1])
    assert read_score(run[1], score.judge) == score
    stored = json.loads((run[1] / "scores" / f"{score.judge}.json").read_text())
    assert score_record(read_score(run[1], score.judge)) == stored


def test_an_unknown_value_or_group_is_named_with_those_there(run):
    score = score_run(run[1])
    with pytest.raises(KeyError, match=NAMES[run[0]][0]):
        score.value("nothing", NAMES[run[0]][1])
    with pytest.raises(KeyError, match="no values for 'nothing'"):
        score.group("nothing")


def test_accuracy_and_interval_are_those_of_a_judged_score(run):
    score = score_run(run[1])
    if run[0] == "judged":
        assert score.accuracy == 8 / 12 and score.interval[0] <= score.accuracy <= score.interval[1]
    else:
        assert score.accuracy is None and score.interval is None


def test_a_score_shows_itself_in_a_notebook(run):
    score = score_run(run[1])
    table = score.model_copy(update={"benchmark": "<b>"})._repr_html_()
    assert table.count("<tr>") == 1 + sum(
        len(group.values) for group in [*([score.overall] if score.overall else []), *score.groups]
    )
    assert NAMES[run[0]][0] in table and score.protocol_hash in table
    assert "<b>" not in table and "&lt;b&gt;" in table
