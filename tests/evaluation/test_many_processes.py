"""Several processes share the videos of a run: what they store together is what one process would have stored."""

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from launched import printed
from qa_sets import StubEngine, counted_set, records, stub_run, write_set, write_video
from tiny_checkpoint import write_checkpoint

from vidtune.cli.main import run as run_command
from vidtune.evaluation.question import group_by_video
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.scores.scoring import score_run
from vidtune.machine.locks import NumberedLocks
from vidtune.registry import BENCHMARKS

QUESTIONS = 120
RESULT = ("predictions.jsonl", "merge.jsonl", "judgements/rules-v1.jsonl", "scores/rules-v1.json")
BROKEN = {"clip7.mp4": "is cut off"}
EVALUATE = "killed_run:evaluate"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A set, and the folder of a run of one process that nobody stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    data = counted_set(folder / "set", QUESTIONS)
    stub_run(data, folder / "run", StubEngine(errors=BROKEN))
    score_run(folder / "run", progress=False)
    return data, folder / "run"


def lines(run: Path) -> int:
    """Answers and judgements that are stored."""
    files = [*run.glob("predictions*.jsonl"), run / "judgements" / "rules-v1.jsonl"]
    return sum(file.read_bytes().count(b"\n") for file in files if file.exists())


def require_same(run: Path, reference: Path) -> None:
    for file in RESULT:
        assert (run / file).read_bytes() == (reference / file).read_bytes(), file
    assert not list(run.glob("predictions-*.jsonl"))


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.whole)])
def test_killed_at_random_moments_of_asking_and_judging(undisturbed, launcher, tmp_path, kills):
    data, reference = undisturbed
    run, moments = tmp_path / "run", random.Random(kills)
    for moment in sorted(moments.sample(range(2 * QUESTIONS - 20), kills)):
        started = launcher.call(EVALUATE, tmp_path / "out", str(data), str(run), BROKEN, ranks=2)
        while lines(run) < moment and started.is_running():
            time.sleep(0.001)
        for process in started.processes:
            with suppress(ProcessLookupError):  # it has nothing left to ask
                os.kill(process, signal.SIGKILL)
            time.sleep(moments.choice([0, 0, 0.005]))
        assert set(started.exit_codes()) <= {0, -signal.SIGKILL}, printed(tmp_path / "out")
    last = launcher.call(EVALUATE, tmp_path / "out", str(data), str(run), BROKEN, ranks=2)
    assert last.exit_codes() == [0, 0], printed(tmp_path / "out")
    require_same(run, reference)


def test_the_videos_of_a_lost_process_are_asked_by_the_others_at_once(undisturbed, launcher, tmp_path):
    data, reference = undisturbed
    started = launcher.call(EVALUATE, tmp_path / "out", str(data), str(tmp_path / "run"), BROKEN, 1, ranks=2)
    while lines(tmp_path / "run") < 20 and started.is_running():
        time.sleep(0.001)
    os.kill(started.processes[1], signal.SIGKILL)
    assert started.exit_codes() == [0, -signal.SIGKILL], printed(tmp_path / "out")
    require_same(tmp_path / "run", reference)


def test_answers_of_any_number_of_processes_belong_to_one_run(undisturbed, tmp_path):
    """Ranks that come one after the other, and then one process alone: nobody asks what another one has asked."""
    data, reference = undisturbed

    class Ends(StubEngine):
        def answer(self, requests):
            yield from (answer for answer, _ in zip(super().answer(requests), range(30), strict=False))
            raise KeyboardInterrupt

    run, asked = tmp_path / "run", []
    for rank in (2, 0):
        engine = Ends(errors=BROKEN)
        with pytest.raises(KeyboardInterrupt):
            stub_run(data, run, engine, rank=rank, ranks=3)
        asked += engine.questions[:30]
    assert len(list(run.glob("predictions-3_*.jsonl"))) == 2
    engine = StubEngine(errors=BROKEN)
    assert stub_run(data, run, engine).asked_now == QUESTIONS - 60 == len(engine.questions)
    assert len({*asked, *engine.questions}) == QUESTIONS
    score_run(run, progress=False)
    require_same(run, reference)


def test_failed_questions_are_asked_again_by_several_processes_once(undisturbed, tmp_path):
    data, _ = undisturbed
    stub_run(data, tmp_path / "run", StubEngine(errors=BROKEN), rank=1, ranks=2)
    engine = StubEngine()
    summary = stub_run(data, tmp_path / "run", engine, rank=0, ranks=2, retry_failed=True)
    assert summary.complete and not summary.errors and len(engine.questions) == 3
    assert len(records(tmp_path / "run" / "predictions.jsonl")) == QUESTIONS


def test_a_video_is_asked_about_by_one_process(undisturbed):
    data, _ = undisturbed
    groups = group_by_video(BENCHMARKS["world_qa"].load(data).questions)
    assert [len(group) for group in groups] == [3] * (QUESTIONS // 3)
    assert all(len({question.video for question in group}) == 1 for group in groups)


def test_numbered_locks_are_free_when_their_process_ends(tmp_path, launcher):
    locks = NumberedLocks(tmp_path / "locks")
    assert locks.take(3) and locks.take(3) and locks.take(5)
    seen = launcher.call("killed_run:free_locks", tmp_path / "seen", str(tmp_path / "locks"))
    assert seen.exit_codes() == [0] and printed(tmp_path / "seen") == "[0, 1, 2, 4, 6]\n"
    locks.release(3)
    assert locks.take(0) and locks.take(4)  # those of the process that has ended
    locks.close()


@pytest.mark.whole
def test_the_command_shares_videos_and_prints_one_score(tmp_path, capfd):
    colours = {"red": (200, 20, 20), "blue": (20, 20, 200), "green": (20, 200, 20)}
    data = write_set(tmp_path / "set", [(name, f"{number}?", name) for number in range(3) for name in colours])
    for name, colour in colours.items():
        write_video(data / "videos" / f"{name}.mp4", colour)
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    (checkpoint / "recipe.yaml").unlink()
    words = ["evaluate", str(checkpoint), "--benchmark", "world_qa", "--data", str(data), "--workers", "0"]
    words += ["--device", "cpu", "--protocol", "generation.max_new_tokens=3"]
    assert run_command([*words, "--out", str(tmp_path / "alone")]) == 0
    alone = capfd.readouterr().out
    assert run_command([*words, "--out", str(tmp_path / "two"), "--processes", "2"]) == 0
    assert capfd.readouterr().out == alone.replace(str(tmp_path / "alone"), str(tmp_path / "two"))
    require_same(tmp_path / "two" / "world_qa", tmp_path / "alone" / "world_qa")
    assert {line["ranks"] for line in records(tmp_path / "two" / "world_qa" / "sessions.jsonl")} == {2}
    assert len(RunFolder(tmp_path / "two" / "world_qa").predictions()) == 9
