"""``kill -9`` at any moment of predicting: the final predictions are those of a run that was never stopped."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from event_sets import event_run, many_events, write_events
from launched import Launcher, printed
from qa_sets import counted_set, records, stub_run

from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.scores.scoring import score_run

QUESTIONS = 150


def lines_written(run: Path) -> int:
    file = run / "predictions.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def kill_when_written(launcher: Launcher, kind: str, data: Path, run: Path, lines: int) -> None:
    """Predict in a process of its own, and end it by ``kill -9`` once so many answers are written."""
    started = launcher.call("killed_run:predict", run.with_suffix(".printed"), kind, str(data), str(run))
    while lines_written(run) < lines and started.is_running():
        time.sleep(0.002)
    os.kill(started.processes[0], signal.SIGKILL)
    assert started.exit_codes() == [-signal.SIGKILL], printed(started.out)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    data = counted_set(folder / "set", QUESTIONS)
    stub_run(data, folder / "run")
    return data, folder / "run"


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.whole)])
def test_killed_at_random_moments_and_resumed_gives_the_same_predictions(undisturbed, launcher, tmp_path, kills):
    data, reference = undisturbed
    run = tmp_path / "run"
    moments = sorted(random.Random(1).sample(range(QUESTIONS - 10), kills))
    for moment in moments:
        kill_when_written(launcher, "qa", data, run, moment)
        assert moment <= lines_written(run) < QUESTIONS
    summary = stub_run(data, run)
    assert summary.complete and 0 < summary.asked_now < QUESTIONS
    for file in ("predictions.jsonl", "merge.jsonl"):
        assert (run / file).read_bytes() == (reference / file).read_bytes()


def test_killed_among_the_tasks_of_a_video_and_resumed_gives_the_same_scores(launcher, tmp_path):
    data = write_events(tmp_path / "set", many_events(videos=12, events=5))
    questions = 12 * (1 + 5 + 5)
    event_run(data, tmp_path / "reference")
    for moment in (3, 40, 77):
        kill_when_written(launcher, "events", data, tmp_path / "run", moment)
        assert moment <= lines_written(tmp_path / "run") < questions
    assert event_run(data, tmp_path / "run").complete
    for folder in ("reference", "run"):
        score_run(tmp_path / folder)
    for file in ("predictions.jsonl", "log.jsonl", "references.jsonl", "measurements.jsonl", "scores/metrics.json"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "reference" / file).read_bytes()


@pytest.mark.parametrize("cut", [1, 10, 60, 500, 4321])
def test_a_torn_end_of_any_length_is_asked_again(undisturbed, tmp_path, cut):
    data, reference = undisturbed
    run = tmp_path / "run"
    run.mkdir()
    for file in ("run.json", "missing.jsonl"):
        (run / file).write_bytes((reference / file).read_bytes())
    (run / "predictions.jsonl").write_bytes((reference / "predictions.jsonl").read_bytes()[:-cut])
    whole_lines = lines_written(run)
    assert stub_run(data, run).asked_now == QUESTIONS - whole_lines > 0
    assert (run / "predictions.jsonl").read_bytes() == (reference / "predictions.jsonl").read_bytes()


def test_nothing_is_recorded_twice(undisturbed):
    _, reference = undisturbed
    indices = [record["index"] for record in records(reference / "predictions.jsonl")]
    assert sorted(indices) == list(range(QUESTIONS))
    assert len(RunFolder(reference).predictions()) == QUESTIONS
