"""Time of ``vidtune evaluate``, the whole command: many questions about few videos, and one question at a time.

A tiny random model with published preprocessing (8 frames of 224 pixels) answers 200 questions about 10 videos of a
minute; those of ActivityNet-QA are two minutes long on average. Decoding 8 frames takes the time of up to 8 groups of
pictures: a longer video costs no more, one of less than 80 s costs less.

- shared: the command as users run it, with an empty folder of decoded frames;
- second: the same command with another test set about the same videos: their frames are read, not decoded;
- stored: the same once more with a feature store that the command before has filled;
- one by one: every question decodes, encodes and prefills its video, as published scripts do.

Each is a process of its own and counts from its start to its end: seconds of wall clock, and CPU seconds of it and all
its workers, which say more on a machine that is shared. They run a copy of the package with its bytecode, which pip
writes when it installs one. The answers of all must be equal.

    python benchmarks/evaluate.py
    python benchmarks/evaluate.py --videos 2 --questions 3 --seconds 2

The last lines are ``CPU ratio <one by one / shared> <shared / second>``, and the same of wall clock, ``ratio ...``.
"""

import argparse
import compileall
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import av
import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, PreTrainedTokenizerFast

import vidtune
from vidtune.checkpoints.fit_processor import build_processor
from vidtune.evaluation.checkpoint import AnsweringOptions
from vidtune.evaluation.evaluate import evaluate
from vidtune.models.video_lm import VideoLM
from vidtune.registry import SYSTEMS

WORDS = ["What", "Which", "moves", "colour", "shape", "left", "right", "first", "last", "many"]
TOWER = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
PIXELS, FPS = (720, 1280), 25
PIECE = 20
"""Seconds of a video that are rendered; a longer one repeats them."""


class Taken(NamedTuple):
    """Seconds that a command took: of wall clock, and of the CPU with all its processes."""

    wall: float
    cpu: float


def main() -> None:
    options = parse_options()
    if options.one_by_one:
        answer_one_by_one(*map(Path, options.one_by_one))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        install(folder / "installed")
        write_model(folder / "model")
        sets = [write_set(folder / f"set{number}", options, number) for number in range(2)]
        times = measure(folder, sets, options)
    print(f"{options.videos} videos of {options.seconds} s, {options.videos * options.questions} questions")
    for what, taken in times.items():
        print(f"{what:14} {taken.wall:8.2f} s {taken.cpu:8.2f} CPU s")
    alone, shared, second = times["one by one"], times["shared"], times["second"]
    print(f"CPU ratio {alone.cpu / shared.cpu:.2f} {shared.cpu / second.cpu:.2f}")
    print(f"ratio {alone.wall / shared.wall:.2f} {shared.wall / second.wall:.2f}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=10)
    parser.add_argument("--questions", type=int, default=20, help="questions about each video")
    parser.add_argument("--seconds", type=int, default=60, help="length of each video, of 1280x720")
    parser.add_argument("--one-by-one", nargs=3, metavar=("MODEL", "SET", "OUT"), help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(folder: Path, sets: list[Path], options: argparse.Namespace) -> dict[str, Taken]:
    """Times of each command; stops if the answers differ."""
    paths = [str(folder / "installed"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    kept = {"VIDTUNE_DECODED": str(folder / "decoded")}

    def command(data: Path, out: str, **environment: str) -> Taken:
        words = ["evaluate", str(folder / "model"), "--benchmark", "world_qa", "--data", str(data), "--device", "cpu"]
        words += ["--out", str(folder / out), "--protocol", "generation.max_new_tokens=8", "--media-timeout", "600"]
        return timed([sys.executable, "-m", "vidtune", *words], environment)

    times = {"shared": command(sets[0], "shared", **kept), "second": command(sets[1], "second", **kept)}
    store = {"VIDTUNE_DECODED": "off", "VIDTUNE_FEATURES": str(folder / "features")}
    times["fills a store"] = command(sets[0], "filling", **store)
    times["stored"] = command(sets[1], "stored", **store)
    alone = [sys.executable, __file__, "--one-by-one", str(folder / "model"), str(sets[0]), str(folder / "alone")]
    times["one by one"] = timed(alone, {"VIDTUNE_DECODED": "off"})
    answers = {out: answers_of(folder / out / "world_qa") for out in ("shared", "filling", "alone", "second", "stored")}
    assert len(answers["shared"]) == options.videos * options.questions
    assert answers["shared"] == answers["alone"] == answers["filling"]
    assert answers["second"] == answers["stored"]
    for out in ("shared", "second", "stored", "alone"):
        print(f"{out}: {(folder / out / 'world_qa' / 'work.jsonl').read_text().strip()}")
    return times


def install(folder: Path) -> None:
    """Copy the package to a folder, and write its bytecode."""
    own = Path(vidtune.__file__).parent
    shutil.copytree(own, folder / own.name, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(folder, quiet=1)


def timed(command: list[str], environment: dict[str, str]) -> Taken:
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Taken(wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def answer_one_by_one(model: Path, data: Path, out: Path) -> None:
    evaluate(
        model,
        "world_qa",
        data=data,
        out=out,
        protocol={"generation": {"max_new_tokens": 8}},
        answering=AnsweringOptions(share_prefix=False, media_timeout=600.0),
        progress=False,
    )


def answers_of(run: Path) -> dict[int, str]:
    lines = map(json.loads, (run / "predictions.jsonl").read_text().splitlines())
    return {line["index"]: line["pred"] for line in lines}


def write_model(folder: Path) -> None:
    """A tiny random model that reads 8 frames of 224 pixels."""
    torch.manual_seed(0)
    text = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        vocab_size=1000,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=None,
    )
    tower = {**TOWER, "image_size": 224, "patch_size": 14}
    towers = {"video": {**tower, "num_frames": 8}, "image": tower}
    config = SYSTEMS[SYSTEMS.names()[0]].architecture.build_config(text, towers, {})
    model = VideoLM(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)  # no close calls between tokens
    words = Tokenizer(WordLevel({**{f"w{number}": number for number in range(999)}, "</s>": 999}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="</s>")
    model.save_pretrained(folder)
    build_processor(config, tokenizer).save_pretrained(folder)


def write_set(folder: Path, options: argparse.Namespace, number: int) -> Path:
    """A test set; the second one has other questions about the videos of the first."""
    (folder / "videos").mkdir(parents=True)
    questions, answers = [], []
    for video in range(options.videos):
        path = folder / "videos" / f"clip{video}.mp4"
        if number:
            os.link(folder.with_name("set0") / "videos" / path.name, path)
        else:
            render(path, video, options.seconds)
        for asked in range(options.questions):
            text = f"{' '.join(f'w{(asked * 7 + number * 3 + place) % 900 + 1}' for place in range(8))}?"
            questions.append({"video_name": path.stem, "question": text, "question_id": f"{video}_{asked}"})
            answers.append({"answer": "w1", "question_id": f"{video}_{asked}"})
    (folder / "test_q.json").write_text(json.dumps(questions))
    (folder / "test_a.json").write_text(json.dumps(answers))
    return folder


def render(path: Path, seed: int, seconds: int) -> None:
    """A video with moving bars and noise, a key frame every 250 frames, as x264 writes it by default."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 60, (*PIXELS, 3), np.uint8)
    colour = random.integers(60, 190, 3).astype(np.uint8)
    piece = min(PIECE, seconds) * FPS
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.height, stream.width = PIXELS
        stream.pix_fmt = "yuv420p"
        packets = []
        for number in range(piece):
            pixels = np.roll(noise, 4 * number, axis=1)
            pixels[:, 5 * number % 1200 : 5 * number % 1200 + 80] += colour
            packets += stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24"))
        packets += stream.encode()
        for begin in range(0, seconds * FPS, piece):
            for packet in packets:
                again = av.Packet(bytes(packet))
                again.time_base, again.is_keyframe, again.stream = Fraction(1, FPS), packet.is_keyframe, stream
                again.pts, again.dts, again.duration = packet.pts + begin, packet.dts + begin, 1
                container.mux(again)


if __name__ == "__main__":
    main()
