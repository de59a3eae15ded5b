"""Decode workers that are killed while they work cost no answer: the predictions are the same bytes."""

from pathlib import Path

import pytest
from killed_decoders import DecoderKiller
from qa_sets import write_set, write_video
from tiny_checkpoint import write_checkpoint

from vidtune.evaluation.asking.shared_videos import Session
from vidtune.evaluation.checkpoint import AnsweringOptions, open_checkpoint
from vidtune.evaluation.predict import PredictionSummary, Variant, predict_benchmark


@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.whole)])
def test_killed_decode_workers_change_no_byte_of_the_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    names = [f"clip{number}" for number in range(2 * kills)]
    data = write_set(tmp_path / "set", [(name, "what?", "x") for name in names])
    for number, name in enumerate(names):
        write_video(data / "videos" / f"{name}.mp4", (3 * number, 20, 200 - 2 * number), frames=4)
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "checkpoint"))

    def predict(out: str) -> PredictionSummary:
        variant, answering = Variant(overrides={"generation": {"max_new_tokens": 2}}), AnsweringOptions(workers=2)
        return predict_benchmark(
            checkpoint, "world_qa", data, tmp_path / out, variant, answering, Session(progress=False)
        )

    undisturbed = predict("undisturbed")
    killer = DecoderKiller(kills, monkeypatch)
    disturbed = predict("disturbed")
    assert killer.left == 0 and disturbed.answered == len(names)
    for file in ("predictions.jsonl", "merge.jsonl"):
        assert (disturbed.run_dir / file).read_bytes() == (undisturbed.run_dir / file).read_bytes()
