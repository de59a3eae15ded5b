"""A raw file through all towers of a model that was published without them: one command, nothing to prepare.

The towers and the language model are the fixture's, in the files that they are published in; the video is rendered.
"""

import contextlib
import io
import json
import os
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from openai_archive import save_archive
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from vidtune.checkpoints.fit_processor import build_processor
from vidtune.checkpoints.load import Checkpoint, load_checkpoint
from vidtune.checkpoints.report import LoadReport
from vidtune.checkpoints.write import save_checkpoint
from vidtune.cli.main import run
from vidtune.data.sample import MediaRef
from vidtune.models.video_lm import VideoLM
from vidtune.processing.tokenizer import load_tokenizer
from vidtune.registry import SYSTEMS

FOLDER = Path(os.environ.get("VIDTUNE_PARITY", Path(__file__).parents[1] / "parity/fixtures")) / "longvale"
STREAMS = ("video", "audio", "speech")
SECONDS = 9.0
QUESTIONS = ["--question", "From 00 to 10?", "--question", "What?", "--max-new-tokens", "24", "--json"]

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no longvale fixtures in this folder")


def write_video(path: Path, sound: bool = True) -> Path:
    """A box that moves, with a tone that rises."""
    rate = 16000
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=4)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        track = container.add_stream("aac", rate=rate, layout="mono") if sound else None
        for number in range(int(4 * SECONDS)):
            pixels = np.full((48, 64, 3), 30, np.uint8)
            pixels[10:30, number : number + 16] = (220, 40 + 3 * number, 60)
            container.mux(picture.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(picture.encode())
        if track is not None:
            time = np.arange(int(rate * SECONDS)) / rate
            wave = (0.4 * np.sin(2 * np.pi * (200 + 40 * time) * time)).astype(np.float32)
            for begin in range(0, len(wave), 1024):
                frame = av.AudioFrame.from_ndarray(wave[None, begin : begin + 1024], "fltp", "mono")
                frame.sample_rate, frame.pts = rate, begin
                container.mux(track.encode(frame))
            container.mux(track.encode())
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published files: towers in three formats, a model without them that takes their widths, and two videos."""
    work = tmp_path_factory.mktemp("raw")
    config = json.loads((FOLDER / "config.json").read_text())
    weights = load_file(FOLDER / "weights.safetensors")

    def below(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}

    save_archive(below("clip."), work / "ViT-L-14.pt")
    torch.save({"cfg": config["beats"], "model": below("beats.")}, work / "BEATs.pt")
    (work / "whisper").mkdir()
    save_file(
        {f"model.encoder.{k}": v for k, v in below("whisper_encoder.").items()}, work / "whisper/model.safetensors"
    )
    (work / "whisper/config.json").write_text(json.dumps({"model_type": "whisper", **config["whisper"]}))
    text = AutoConfig.for_model("llama", **{**config["llm"], "vocab_size": config["vocab_size"]})
    widths = {
        "vision": config["clip"]["output_dim"],
        "audio": config["beats"]["encoder_embed_dim"],
        "speech": config["whisper"]["d_model"],
    }
    absent = {name: {"absent": name, "hidden_size": width} for name, width in widths.items()}
    absent["audio"]["position_groups"] = config["beats"]["conv_pos_groups"]
    absent["audio"]["num_attention_heads"] = config["beats"]["encoder_attention_heads"]
    absent["speech"]["num_attention_heads"] = config["whisper"]["encoder_attention_heads"]
    torch.manual_seed(0)
    model = VideoLM(SYSTEMS["longvale"].architecture.build_config(text, absent, {})).eval()
    language_model = {k: v for k, v in below("llm.").items() if "mm_projector" not in k and "inv_freq" not in k}
    model.language_model.load_state_dict(language_model)
    with torch.no_grad():
        for connector in model.connectors.parameters():
            connector.mul_(8)  # so that an answer of a few tokens tells what was heard
    processor = build_processor(model.config, load_tokenizer(FOLDER, legacy=False))
    save_checkpoint(Checkpoint(model, processor, LoadReport("memory")), work / "published")
    write_video(work / "talk.mp4")
    write_video(work / "silent.mp4", sound=False)
    return work


def towers(work: Path) -> list[str]:
    places = {"vision": "ViT-L-14.pt", "audio": "BEATs.pt", "speech": "whisper"}
    return [word for name, place in places.items() for word in ("--tower", f"{name}={work / place}")]


def ask(capsys: pytest.CaptureFixture[str], checkpoint: Path, *arguments: object) -> str:
    """What ``vidtune answer --json`` says to two questions."""
    assert run(["answer", str(checkpoint), *map(str, arguments), *QUESTIONS]) == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def whole(work: Path) -> Path:
    """The model with its towers put in."""
    assert run(["convert", str(work / "published"), str(work / "whole"), *towers(work)]) == 0
    return work / "whole"


@pytest.fixture(scope="module")
def features(work: Path, whole: Path) -> dict[str, Path]:
    """What the towers make of the video, as files."""
    loaded = load_checkpoint(whole)
    places = {}
    for ref, _ in loaded.processor.reader.readings(MediaRef("video", str(work / "talk.mp4"))):
        values = torch.from_numpy(loaded.processor.preprocessing[ref.stream].load(ref.path))
        with torch.no_grad():
            (found,) = loaded.model.tower_features(ref.stream, values[None])
        places[ref.stream] = work / f"{ref.stream}.npy"
        np.save(places[ref.stream], found.numpy())
    return places


@pytest.fixture(scope="module")
def raw(work: Path, whole: Path) -> str:
    """What the whole model answers about the video."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert run(["answer", str(whole), "--video", str(work / "talk.mp4"), *QUESTIONS]) == 0
    return said.getvalue()


def test_raw_file_goes_through_all_three_towers_and_equals_its_features(work, whole, features, raw, capsys):
    assert set(features) == set(STREAMS)
    assert [np.load(features[stream]).shape[0] for stream in STREAMS] == [100, 2, 5]
    given = [word for stream in STREAMS for word in ("--features", f"{stream}={features[stream]}")]
    assert ask(capsys, whole, "--video", work / "talk.mp4", *given) == raw
    assert ask(capsys, work / "published", "--duration", SECONDS, *given) == raw
    assert ask(capsys, work / "published", "--video", work / "talk.mp4", *towers(work)) == raw


@pytest.mark.parametrize(
    "without", ["audio", *(pytest.param(name, marks=pytest.mark.whole) for name in ("video", "speech"))]
)
def test_each_stream_is_heard_and_can_be_switched_off(without, work, whole, features, raw, capsys):
    off = ask(capsys, whole, "--video", work / "talk.mp4", "--without", without)
    assert off != raw
    rest = [word for stream in STREAMS if stream != without for word in ("--features", f"{stream}={features[stream]}")]
    assert ask(capsys, work / "published", "--duration", SECONDS, *rest) == off


def test_video_without_sound_is_seen_alone(work, whole, capsys):
    silent = ask(capsys, whole, "--video", work / "silent.mp4")
    off = ("--without", "audio", "--without", "speech")
    assert ask(capsys, whole, "--video", work / "silent.mp4", *off) == silent


def test_absent_towers_are_named_before_anything_is_decoded(work, capsys):
    command = ["answer", str(work / "published"), "--video", str(work / "talk.mp4"), "--question", "What?"]
    assert run(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--tower vision=PLACE --tower audio=PLACE --tower speech=PLACE" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tower", "vison=x.pt"], "vision"),
        (["--tower", "vision"], "write --tower NAME=VALUE"),
        (["--tower", "vision=absent.pt"], "absent.pt: no such file"),
        (["--tower", "vision={work}/BEATs.pt"], "no vision transformer of OpenAI"),
        (["--features", "video={work}/absent.npy"], "no such file"),
        (["--features", "video={work}/talk.mp4"], "features are read from .npy"),
        (["--features", "video={work}/wrong.npy"], "width 7"),
        (["--features", "smell={work}/wrong.npy"], "takes no smell"),
        (["--without", "smell"], "no stream 'smell'"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(arguments, message, work, capsys):
    np.save(work / "wrong.npy", np.zeros((100, 7), np.float32))
    words = [word.format(work=work) for word in arguments]
    assert run(["answer", str(work / "published"), *words, "--question", "What?"]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_moments_are_shown_in_seconds(work, whole, capsys, monkeypatch):
    """A model this small names no moments of itself: its tokenizer is made to."""
    from vidtune.generation.stopping import AnswerInProgress

    told = AnswerInProgress.answer

    def answer(self):
        from dataclasses import replace

        return replace(told(self), text="From 10 to 50, a tone rises.")

    monkeypatch.setattr(AnswerInProgress, "answer", answer)
    command = ["answer", str(whole), "--video", str(work / "talk.mp4"), "--question", "When?", "--max-new-tokens", "4"]
    assert run(command) == 0
    assert capsys.readouterr().out == "From 10 to 50 (0.9 s to 4.5 s), a tone rises.\n"
    assert run([*command, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["answer"] == "From 10 to 50, a tone rises."
    assert record["spans"] == [[0.9, 4.5]] and record["duration"] == 9.0


def test_benchmark_over_raw_files_needs_the_towers_and_says_so_first(work, whole, capsys):
    data = work / "eval"
    (data / "videos").mkdir(parents=True)
    shutil.copy(work / "talk.mp4", data / "videos/talk.mp4")
    events = {"talk": {"duration": SECONDS, "timestamps": [[1.0, 4.0]], "sentences": ["A tone rises."]}}
    (data / "longvale-annotations-eval.json").write_text(json.dumps(events))
    command = ["--benchmark", "longvale_grounding", "--data", str(data), "--protocol", "generation.max_new_tokens=4"]
    assert run(["evaluate", str(work / "published"), *command, "--out", str(work / "refused")]) == 2
    assert "--tower vision=PLACE" in capsys.readouterr().err
    assert not (work / "refused").exists()
    assert run(["evaluate", str(whole), *command, "--out", str(work / "scored")]) == 0
    assert "1 of 1 questions answered" in capsys.readouterr().out
    assert run(["evaluate", str(work / "published"), *towers(work), *command, "--out", str(work / "again")]) == 0
    first, second = (
        json.loads((work / name / "longvale_grounding/predictions.jsonl").read_text()) for name in ("scored", "again")
    )
    assert first["pred"] == second["pred"]


def test_format_without_towers_says_what_it_leaves_out(work, whole, raw, capsys):
    assert run(["convert", str(whole), str(work / "official"), "--to", "official"]) == 0
    assert "no place for towers.audio, towers.speech, towers.vision" in capsys.readouterr().err
    assert ask(capsys, work / "official", "--video", work / "talk.mp4", *towers(work)) == raw


PLACES = {"vision": "ViT-L-14.pt", "audio": "BEATs.pt", "speech": "whisper"}


def test_published_towers_fill_the_store(work, features, capsys):
    (work / "raw_videos").mkdir()
    for name in ("talk.mp4", "silent.mp4"):
        shutil.copy(work / name, work / "raw_videos")
    named = {"video": "vision", "audio": "audio", "speech": "speech"}
    words = [w for s, tower in named.items() for w in ("--tower", f"longvale:{s}={work / PLACES[tower]}")]
    assert (
        run(["features", "extract", "--store", str(work / "store"), *words, "--videos", str(work / "raw_videos")]) == 0
    )
    said = capsys.readouterr().out
    assert "video: 2 stored" in said and "audio: 1 stored" in said and "speech: 1 stored" in said


@pytest.mark.whole
def test_stage_on_videos_runs_the_towers_that_the_recipe_names(work, whole, capsys):
    """Adapters and connectors learn; every file is decoded and encoded once, in two epochs."""
    published = load_checkpoint(work / "published")
    published.model.language_model.save_pretrained(work / "llm")
    published.processor.tokenizer.save_pretrained(work / "llm")
    (work / "media").mkdir()
    samples = []
    for name in ("talk", "silent"):
        shutil.copy(work / f"{name}.mp4", work / "media")
        turns = [
            {"from": "human", "value": "<video>\nWhen?"},
            {"from": "gpt", "value": "From <s0> to <e0>."},
        ]
        meta = {"duration": SECONDS, "token": {"<s0>": 1.0, "<e0>": 4.0}}
        samples.append({"id": name, "video": f"{name}.mp4", "conversations": turns, "meta": meta})
    (work / "train.json").write_text(json.dumps(samples))
    recipe = {
        "system": "longvale",
        "language_model": str(work / "llm"),
        "towers": {name: str(work / place) for name, place in PLACES.items()},
        "features": "auto",
        "stages": [
            {
                "name": "perceive",
                "train": {"language_model": {"learning_rate": 1e-3, "lora": {"rank": 2}}, "connectors": 1e-3},
                "data": [{"annotations": str(work / "train.json"), "media": str(work / "media")}],
                "global_batch_size": 2,
                "epochs": 2,
                "workers": 0,
            }
        ],
    }
    (work / "recipe.yaml").write_text(json.dumps(recipe))
    assert run(["train", str(work / "recipe.yaml"), "--out", str(work / "run")]) == 0
    capsys.readouterr()
    assert run(["features", "list", "--store", str(work / "run/features")]) == 0
    listed = capsys.readouterr().out
    assert listed.count(" items") == 3
    # What extraction builds, tower by tower, is what the whole model holds.
    words = ["features", "extract", str(work / "recipe.yaml"), "--store", str(work / "run/features"), "--workers", "0"]
    assert run(words) == 0
    said = capsys.readouterr().out
    assert "video: 0 stored, 2 found" in said and "audio: 0 stored, 1 found" in said and "speech: 0 stored, 1" in said
    trained = work / "run/perceive/final"
    assert load_checkpoint(trained).model.config.absent_towers == []
    raw = ask(capsys, trained, "--video", work / "talk.mp4")
    assert raw != ask(capsys, trained, "--video", work / "talk.mp4", "--without", "audio")
