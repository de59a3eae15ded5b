"""``vidtune evaluate`` with ``--frames``, ``--frames-at``, ``--start``, ``--end``: which frames are read, and what is
recorded of it, for a model of ours, a model of transformers and an endpoint.
"""

import base64
import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from event_sets import write_events
from judge_server import Reply, judge_server
from PIL import Image
from qa_sets import records, write_set
from synthetic_clips import decode_plainly, write_clip
from tiny_checkpoint import write_checkpoint
from tiny_vlms import write_vlm

import vidtune
from vidtune.cli.main import run
from vidtune.evaluation.models.frames import FrameReader

QUESTIONS = ["What moves?", "Who is it?"]
QUICK = ["--protocol", "generation.max_new_tokens=4", "--workers", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_set(tmp_path_factory.mktemp("set"), [("clip", question, "x") for question in QUESTIONS])
    write_clip(folder / "videos" / "clip.mp4", num_frames=30)  # 3 seconds
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = write_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    (found / "recipe.yaml").unlink()
    return found


def evaluated(data: Path, out: Path, *words: str) -> tuple[Path, dict, list[str]]:
    """Folder, protocol and answers of a run."""
    names = set(out.iterdir()) if out.exists() else set()
    named = ["--benchmark", "world_qa", "--data", str(data), "--out", str(out)]
    assert run(["evaluate", *named, *words, *QUICK[2:]]) == 0
    [folder] = set(out.iterdir()) - names
    protocol = json.loads((folder / "run.json").read_text())["protocol"]
    return folder, protocol, [record["pred"] for record in records(folder / "predictions.jsonl")]


READINGS = [
    ({}, [], {}),
    ({"frames": 4}, ["--frames", "4"], {"frames": 4}),
    ({"frames_at": [0.4, 2.5]}, ["--frames-at", "0.4,2.5"], {"frames_at": [0.4, 2.5]}),
    ({"start": 1, "end": 2.0}, ["--start", "1", "--end", "2"], {"start": 1.0, "end": 2.0}),
]


def test_a_run_reads_what_an_answer_reads_and_says_so(data, checkpoint, tmp_path, capsys):
    model = vidtune.load(checkpoint, device="cpu")
    found = []
    for given, words, rules in READINGS[1:]:
        folder, protocol, said = evaluated(data, tmp_path, str(checkpoint), *words, *QUICK[:2])
        asked = (
            [protocol["question"].format(question=text) for text in QUESTIONS] if "question" in protocol else QUESTIONS
        )
        plain = model.answer(
            asked, video=data / "videos/clip.mp4", prompt=protocol["prompt_format"], max_new_tokens=4, **given
        )
        assert said == [str(reply) for reply in plain]
        assert protocol.get("reading", {}) == rules
        told = "4 frames where the model was trained with 2" if given == {"frames": 4} else None
        assert protocol.get("untrained_length") == told
        found.append((folder.name, json.dumps(protocol, sort_keys=True), tuple(said)))
    for kinds in zip(*found, strict=True):
        assert len(set(kinds)) == len(READINGS) - 1  # names, protocols and answers all differ
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--start", "1"], "the answers name moments of the whole videos; leave out start and end"),
        (["--frames-at", "0.1", "--frames", "2"], "--frames-at: given seconds of frames leave nothing to choose"),
        (["--frames", "0"], "--frames: frames is 0"),
    ],
)
def test_what_cannot_be_read_is_refused_before_anything_is_written(words, said, checkpoint, tmp_path, capsys):
    annotated = {"duration": 3.0, "timestamps": [[0, 0.5]], "sentences": ["A thing moves."]}
    folder = write_events(tmp_path / "events", {"clip": annotated})
    write_clip(folder / "videos" / "clip.mp4", num_frames=30)
    named = ["--benchmark", "world_events", "--data", str(folder), "--out", str(tmp_path / "out")]
    assert run(["evaluate", str(checkpoint), *named, *words, *QUICK]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_endpoint_gets_the_frames_that_are_asked_for(data, tmp_path, capsys):
    true = [frame.astype(float) for frame in decode_plainly(data / "videos/clip.mp4")]
    body = {"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "x"}}]}
    shown = []
    with judge_server(lambda request, earlier: Reply(body=json.dumps(body).encode())) as server:
        for _, words, rules in READINGS:
            before = len(server.requests)
            model = ["--model", "tiny", "--endpoint", server.url, "--protocol", "preprocessing.num_frames=3"]
            _, protocol, _ = evaluated(data, tmp_path, *model, *words)
            assert protocol.get("reading", {}) == rules
            [message] = server.requests[before]["messages"]
            urls = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
            pictures = [np.array(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) for url in urls]
            shown.append([int(np.argmin([np.abs(one - picture).mean() for one in true])) for picture in pictures])
    plain, four, at, part = shown
    assert len(plain) == 3 and len(four) == 4 and at == [4, 25]
    assert len(part) == 3 and all(10 <= frame < 20 for frame in part)
    assert all(one < other for frames in shown for one, other in pairwise(frames))
    capsys.readouterr()


@pytest.mark.whole
def test_a_model_of_transformers_gets_the_frames_that_are_asked_for(data, tmp_path, capsys, monkeypatch):
    add, shown = FrameReader._add, []

    def seen(reader, group, result):
        add(reader, group, result)
        shown.extend(one.indices for one in group.shown)

    monkeypatch.setattr(FrameReader, "_add", seen)
    folder = str(write_vlm(tmp_path / "model", "llava_onevision"))
    words = [folder, "--protocol", "preprocessing.given=images", "--protocol", "preprocessing.num_frames=3", *QUICK[:2]]
    for _, more, rules in READINGS:
        _, protocol, said = evaluated(data, tmp_path / "out", *words, *more)
        assert protocol.get("reading", {}) == rules and all(said)
    plain, four, at, part = shown
    assert (len(plain), len(four), at) == (3, 4, (4, 25))
    assert len(part) == 3 and part[-1] < 10  # of the second that is read
    capsys.readouterr()
