"""Nothing is computed twice: decoded frames and stored features serve the next benchmark; a run counts its work."""

import pytest
from qa_sets import records, write_set, write_video
from tiny_checkpoint import write_checkpoint

from vidtune.cli.main import run as run_command
from vidtune.evaluation.asking.shared_videos import Session
from vidtune.evaluation.checkpoint import AnsweringOptions, open_checkpoint
from vidtune.evaluation.predict import predict_benchmark
from vidtune.media.kept import decoded

COLOURS = {"red": (200, 20, 20), "blue": (20, 20, 200)}
QUESTIONS = [(name, f"{word}?", name) for word in ("what", "who", "where") for name in COLOURS]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    data = write_set(folder / "set", QUESTIONS)
    for name, colour in COLOURS.items():
        write_video(data / "videos" / f"{name}.mp4", colour)
    return data, open_checkpoint(write_checkpoint(folder / "checkpoint"))


def predictions(world, out, overrides=None, **options):
    """The stored answers, and the work that they took."""
    from vidtune.evaluation.predict import Variant

    data, loaded = world
    variant = Variant(overrides={"generation": {"max_new_tokens": 3, **(overrides or {})}})
    answering, session = AnsweringOptions(workers=0, **options), Session(progress=False)
    summary = predict_benchmark(loaded, "world_qa", data, out, variant, answering, session)
    assert summary.complete
    [work] = records(summary.run_dir / "work.jsonl")
    return (summary.run_dir / "predictions.jsonl").read_bytes(), work


def test_a_run_counts_its_work_against_what_is_distinct(world, tmp_path):
    _, work = predictions(world, tmp_path / "shared")
    assert (work["asked"], work["media"], work["media_loaded"], work["encodings"]) == (6, 2, 2, 2)
    assert (work["prefixes"], work["prefills"], work["questions"]) == (2, 2, 6)
    _, work = predictions(world, tmp_path / "alone", share_prefix=False)
    assert (work["media"], work["media_loaded"], work["encodings"], work["prefills"]) == (2, 6, 6, 6)


def test_stored_features_give_the_same_answers_without_decoding_or_encoding(world, tmp_path):
    plain, _ = predictions(world, tmp_path / "plain")
    first, work = predictions(world, tmp_path / "first", store=tmp_path / "store")
    assert first == plain
    assert (work["media_loaded"], work["encodings"], work["features_found"]) == (2, 2, 0)
    second, work = predictions(world, tmp_path / "second", store=tmp_path / "store")
    assert second == plain
    assert (work["media_loaded"], work["encodings"], work["features_found"]) == (0, 0, 2)
    _, work = predictions(world, tmp_path / "other", {"max_new_tokens": 2}, store=tmp_path / "store")
    assert work["features_found"] == 2


def test_decoded_frames_serve_the_next_benchmark(world, tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "LEAST_SECONDS", -1.0)
    monkeypatch.setattr(decoded, "WORTH", 0.0)
    monkeypatch.setenv("VIDTUNE_DECODED", str(tmp_path / "decoded"))
    first, work = predictions(world, tmp_path / "first")
    assert (work["media_loaded"], work["decoded_found"]) == (2, 0)
    second, work = predictions(world, tmp_path / "second")
    assert (work["media_loaded"], work["decoded_found"], work["encodings"]) == (0, 2, 2) and second == first


def test_answer_reads_and_fills_the_store(world, tmp_path, capsys):
    data, loaded = world
    words = ["answer", loaded.identity.path, "--question", "what?", "--video", str(data / "videos" / "red.mp4")]
    words += ["--max-new-tokens", "3", "--device", "cpu"]
    said = []
    for options in ([], ["--store", str(tmp_path / "store")], ["--store", str(tmp_path / "store")]):
        assert run_command([*words, *options]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2]
    assert len(list((tmp_path / "store").glob("*/shards/*.safetensors"))) == 1
