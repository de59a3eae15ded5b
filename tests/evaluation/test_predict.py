"""Predicting: what is asked, what is recorded, what a second start does."""

import json
from functools import partial

import pytest
from qa_sets import CHECKPOINT, StubEngine, counted_set, records, stub_protocol, stub_run, write_set

from vidtune.checkpoints.files import fingerprint
from vidtune.errors import UserError
from vidtune.evaluation.runs.checkpoint_identity import CheckpointIdentity, identify_checkpoint
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.machine.records import RecordWriter


@pytest.fixture
def data(tmp_path):
    return counted_set(tmp_path / "set", 10)


def test_records_begin_with_the_official_fields_in_their_order(data, tmp_path):
    stub_run(data, tmp_path / "run")
    for record in records(tmp_path / "run" / "predictions.jsonl"):
        assert list(record)[:4] == ["id", "question", "answer", "pred"]
        assert record["pred"] == record["answer"] == f"answer {record['index']}"
        assert None not in record.values()


def test_questions_of_one_video_are_asked_together(data, tmp_path):
    engine = StubEngine()
    stub_run(data, tmp_path / "run", engine)
    paths = [request.media[0].path for request in engine.asked]
    assert [path for n, path in enumerate(paths) if n == 0 or paths[n - 1] != path] == list(dict.fromkeys(paths))
    assert engine.asked[0].question == "<video>\nquestion 0?"


def test_the_official_file_has_the_order_of_the_test_set(data, tmp_path):
    stub_run(data, tmp_path / "run")
    merged = records(tmp_path / "run" / "merge.jsonl")
    assert [record["question"] for record in merged] == [f"question {n}?" for n in range(10)]
    assert all(list(record) == ["id", "question", "answer", "pred"] for record in merged)


def test_a_second_start_asks_nothing(data, tmp_path):
    first = stub_run(data, tmp_path / "run")
    before = (tmp_path / "run" / "predictions.jsonl").read_bytes()
    engine = StubEngine()
    second = stub_run(data, tmp_path / "run", engine)
    assert engine.asked == []
    assert (first.asked_now, second.asked_now) == (10, 0)
    assert second.complete
    assert (tmp_path / "run" / "predictions.jsonl").read_bytes() == before


def test_a_second_command_into_the_run_that_another_one_asks_is_refused_at_once(data, tmp_path):
    before = stub_run(data, tmp_path / "run", limit=2)
    stored = (before.run_dir / "predictions.jsonl").read_bytes()
    engine = StubEngine()
    with (
        RecordWriter(before.run_dir / "predictions.jsonl"),
        pytest.raises(UserError, match=r"predictions\.jsonl: another process is writing this file; .*process \d+ on"),
    ):
        stub_run(data, tmp_path / "run", engine)
    assert engine.asked == [] and (before.run_dir / "predictions.jsonl").read_bytes() == stored
    stub_run(data, tmp_path / "run")
    assert len(records(before.run_dir / "predictions.jsonl")) == 10


def test_ranks_share_the_questions_and_a_later_start_sees_all_of_them(data, tmp_path):
    asked = []
    for rank in (2, 0):
        engine = StubEngine(most=3)
        assert not stub_run(data, tmp_path / "run", engine, rank=rank, ranks=3).complete
        asked += engine.questions
    engine = StubEngine()
    summary = stub_run(data, tmp_path / "run", engine)
    assert len(engine.questions) == 4 and sorted([*asked, *engine.questions]) == [f"question {n}?" for n in range(10)]
    assert summary.complete
    predictions = RunFolder(tmp_path / "run").predictions()
    assert [prediction.pred for prediction in predictions] == [f"answer {n}" for n in range(10)]


def test_a_limit_can_be_raised_later(data, tmp_path):
    assert stub_run(data, tmp_path / "run", limit=4).planned == 4
    engine = StubEngine()
    summary = stub_run(data, tmp_path / "run", engine)
    assert (summary.planned, summary.answered, len(engine.asked)) == (10, 10, 6)
    assert stub_run(data, tmp_path / "run", limit=3).planned == 10


def test_missing_videos_are_named_and_found_when_they_appear(tmp_path):
    data = write_set(tmp_path / "set", [("a", "question 0?", "x"), ("b", "question 1?", "y")], missing=["b"])
    summary = stub_run(data, tmp_path / "run")
    assert (summary.answered, summary.missing, summary.complete) == (1, 1, True)
    [missing] = records(tmp_path / "run" / "missing.jsonl")
    assert (missing["id"], missing["video"]) == ("b_1", "b")
    (data / "videos" / "b.mp4").touch()
    assert stub_run(data, tmp_path / "run").answered == 2
    assert records(tmp_path / "run" / "missing.jsonl") == []


def test_a_failing_video_is_recorded_and_the_rest_goes_on(data, tmp_path):
    summary = stub_run(data, tmp_path / "run", StubEngine(errors={"clip1.mp4": "no such codec"}))
    assert (summary.answered, summary.errors, summary.complete) == (7, 3, True)
    failed = [record for record in records(tmp_path / "run" / "predictions.jsonl") if "error" in record]
    assert {record["video"] for record in failed} == {"clip1"}
    assert all(record["pred"] == "" and "clip1.mp4: no such codec" in record["error"] for record in failed)
    assert len(records(tmp_path / "run" / "merge.jsonl")) == 7


def test_errors_are_asked_again_only_on_request(data, tmp_path):
    stub_run(data, tmp_path / "run", StubEngine(errors={"clip1.mp4": "no such codec"}))
    engine = StubEngine()
    assert stub_run(data, tmp_path / "run", engine).errors == 3
    assert engine.asked == []
    summary = stub_run(data, tmp_path / "run", engine, retry_failed=True)
    assert (summary.answered, summary.errors, len(engine.asked)) == (10, 0, 3)


def test_what_could_not_be_read_then_is_open_and_asked_again_by_the_same_call(data, tmp_path):
    """In the end everything is as if nothing had happened."""
    killed = {f"clip{n}.mp4": "the process reading it died after 0.1 s (SIGKILL)" for n in (1, 2)}
    summary = stub_run(data, tmp_path / "run", StubEngine(errors=killed, open=True))
    undisturbed = stub_run(data, tmp_path / "undisturbed")
    assert (summary.errors, summary.complete) == (0, False)
    assert summary.open == undisturbed.planned - summary.answered > 3
    [reason] = summary.ledger.reasons()
    assert f"{summary.open} not asked yet: the process reading it died (SIGKILL); the same command asks again" in reason
    assert not (tmp_path / "run" / "merge.jsonl").exists()
    for still, left in (({"clip1.mp4": "again"}, 3), ({}, 0)):
        summary = stub_run(data, tmp_path / "run", StubEngine(errors=still, open=True))
        assert (summary.open, summary.complete) == (left, not left)
    for name in ("predictions.jsonl", "merge.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def test_an_empty_answer_is_an_answer(data, tmp_path):
    summary = stub_run(data, tmp_path / "run", StubEngine({"question 3?": ""}))
    assert summary.answered == 10
    assert RunFolder(tmp_path / "run").predictions()[3].pred == ""


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"protocol": stub_protocol(blind=True)}, "protocol"),
        ({"checkpoint": CheckpointIdentity(path="/models/two", fingerprint="bbbb")}, "checkpoint aaaa, not bbbb"),
    ],
)
def test_a_folder_of_another_run_is_refused_and_left_alone(data, tmp_path, change, named):
    stub_run(data, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(UserError, match=f"holds the results of another run .*{named}"):
        stub_run(data, tmp_path / "run", **change)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_another_version_of_the_test_set_is_refused(data, tmp_path):
    stub_run(data, tmp_path / "run")
    with pytest.raises(UserError, match="test set"):
        stub_run(counted_set(tmp_path / "other", 11), tmp_path / "run")


def test_a_moved_checkpoint_is_the_same_run(data, tmp_path):
    stub_run(data, tmp_path / "run")
    moved = CheckpointIdentity(path="/elsewhere", fingerprint=CHECKPOINT.fingerprint)
    assert stub_run(data, tmp_path / "run", checkpoint=moved).complete


def test_the_run_says_what_it_was_made_with(data, tmp_path):
    stub_run(data, tmp_path / "run", recipe="system: some", system="some")
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["protocol_hash"] == stub_protocol().hash
    assert info["checkpoint"] == {"path": "/models/one", "fingerprint": "aaaa"}
    assert info["recipe"] == "system: some"
    assert {"vidtune", "python", "torch", "transformers"} <= set(info["versions"])


def test_a_checkpoint_is_identified_by_its_content(tmp_path):
    for name, weights in (("one", b"w" * 100), ("copy", b"w" * 100), ("other", b"w" * 99 + b"v")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
        (tmp_path / name / "config.json").write_text("{}")
    one, copy, other = (identify_checkpoint(tmp_path / name).fingerprint for name in ("one", "copy", "other"))
    assert one == copy != other
    below = (["some/model"], ["some/model", "some/run"], ["some/run", "some/model"])
    assert len({one, *(identify_checkpoint(tmp_path / "one", others).fingerprint for others in below)}) == 4


def test_one_changed_byte_in_a_large_file_s_sampled_block_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "add_content", partial(fingerprint.add_content, whole=1000))
    monkeypatch.setattr(fingerprint, "BLOCK_BYTES", 100)
    weights = tmp_path / "model.safetensors"
    fingerprints = set()
    for changed in (None, 0, 19_999):
        content = bytearray(20_000)
        if changed is not None:
            content[changed] = 1
        weights.write_bytes(content)
        fingerprints.add(identify_checkpoint(tmp_path).fingerprint)
    assert len(fingerprints) == 3
