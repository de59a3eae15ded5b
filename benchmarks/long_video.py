"""Long videos: memory and seconds of the towers, and of 20 questions about one video over one at a time.

The model is random and of the kind for long videos: a tower over clips of four frames, whose features are merged to 16
tokens a frame, before a small language model. One thread, float32.

- encoding: videos of 64 to 2048 frames, each in a process of its own. The memory of the towers is the peak of the
  process without the pixels of the video; it must not grow with the video, and the seconds grow at most linearly;
- answering: 20 questions about one mp4 file that share one prefix, against one call for each question. Each such call
  decodes, encodes and reads the video anew and costs the same, so only ``--alone`` of them are run.

    python benchmarks/long_video.py
    python benchmarks/long_video.py --frames 16 32 --answer-frames 16 --hidden 64 --layers 1 --image 48   # seconds

The last two lines are ``growth <number>``, seconds a frame of the longest video over those of the shortest, and
``ratio <number>``, the gain of answering together.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

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
from vidtune.checkpoints.publication import Publication
from vidtune.data.sample import MediaRef
from vidtune.generation.engine import AnswerEngine
from vidtune.generation.settings import GenerationSettings, Request
from vidtune.media.preprocessing.resize_to_square import VideoPreprocessing
from vidtune.models.architecture import Architecture
from vidtune.models.config import VideoLMConfig
from vidtune.models.video_lm import VideoLM
from vidtune.processing.dialect import Dialect
from vidtune.processing.processor import VideoLMProcessor
from vidtune.processing.prompts.known import with_roles
from vidtune.systems.base import System

NAME, PATCH, CLIP, TOKENS = "long_videos", 16, 4, 64
WORDS = 200
MEGABYTE = 2**20


def main() -> None:
    options = parse_options()
    torch.set_num_threads(1)
    if options.encode:
        print(json.dumps(encode_one(options, options.encode)))
        return
    print(f"machine: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, 1 thread used, float32")
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, av {av.__version__}; frames of "
        f"{options.image} pixels; tower and language model of width {options.hidden} and {options.layers} layers"
    )
    growth = measure_encoding(options)
    ratio = measure_answering(options)
    print(f"growth {growth:.2f}")
    print(f"ratio {ratio:.2f}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[64, 256, 512, 2048], help="multiples of 4")
    parser.add_argument("--answer-frames", type=int, default=256, help="frames of the video of the questions")
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--alone", type=int, default=2, help="questions that are asked one at a time")
    parser.add_argument("--answer-tokens", type=int, default=8)
    parser.add_argument("--image", type=int, default=112, help=f"side of a frame, a multiple of {PATCH}")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--encode", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def build(options: argparse.Namespace, frames: int) -> tuple[VideoLM, VideoLMProcessor]:
    """A random model, and its processor with a tokenizer of numbered words."""
    torch.manual_seed(options.seed)
    tower = {
        "type": "umt",
        "hidden_size": options.hidden,
        "intermediate_size": 4 * options.hidden,
        "num_hidden_layers": options.layers,
        "num_attention_heads": 4,
        "image_size": options.image,
        "patch_size": PATCH,
        "clip_frames": CLIP,
    }
    group = CLIP * (options.image // PATCH) ** 2
    merging = {"type": "token_merging", "input_size": options.hidden, "output_size": options.hidden, "heads": 4}
    text_config = LlamaConfig(
        hidden_size=options.hidden,
        intermediate_size=3 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=4,
        vocab_size=WORDS,
        max_position_embeddings=TOKENS * frames // CLIP + 1024,
        bos_token_id=None,
        eos_token_id=None,
    )

    def build_config(text_config: Any, towers: Any, connectors: Any) -> VideoLMConfig:
        return VideoLMConfig(
            system=NAME,
            text_config=text_config,
            towers={"vision": tower},
            connectors={"visual": {**merging, "group_tokens": group, "tokens": min(TOKENS, group)}},
            streams={"video": {"tower": "vision", "connector": "visual"}},
        )

    def preprocessing(config: VideoLMConfig) -> dict[str, Any]:
        return {"video": VideoPreprocessing(size=options.image, num_frames=frames, sampling="middles")}

    prompts = {"v1": with_roles("v1", "A chat.")}
    vidtune.register_system(
        System(
            name=NAME,
            title="Long videos",
            paper="",
            repository="",
            dialect=Dialect(prompts=prompts, training_prompt="v1", answering_prompt="v1", max_media={"video": 1}),
            architecture=Architecture(build_config, preprocessing),
            publication=Publication(formats=()),
        )
    )
    config = build_config(text_config, {}, {})
    last = WORDS - 1
    words = Tokenizer(WordLevel({**{f"w{i}": i for i in range(last)}, "</s>": last}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="</s>")
    return VideoLM(config).eval(), build_processor(config, tokenizer)


def encode_one(options: argparse.Namespace, frames: int) -> dict[str, float]:
    """CPU seconds of encoding a video of so many frames, and MB of memory: its pixels, and the peak above them."""
    model, _ = build(options, frames)
    pixels = torch.rand(3, frames, options.image, options.image)
    with torch.inference_mode():
        model.encode("video", [pixels[:, :CLIP]])
        before = reset_peak()
        start = time.process_time()
        tokens = model.encode("video", [pixels])[0]
        seconds = time.process_time() - start
    assert len(tokens) == model.config.num_tokens("video", tuple(pixels.shape))
    result = tokens.nbytes + len(tokens) * options.hidden * 4  # embeddings, and merged features
    return {
        "frames": frames,
        "tokens": len(tokens),
        "seconds": seconds,
        "pixels": pixels.nbytes / MEGABYTE,
        "result": result / MEGABYTE,
        "towers": peak_memory() - before - result / MEGABYTE,
    }


def reset_peak() -> float:
    """Begin to count the peak of the memory of this process anew; MB now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def peak_memory() -> float:
    """Peak of the resident memory of this process, MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("error: this system does not tell the peak of memory")


def measure_encoding(options: argparse.Namespace) -> float:
    """Prints the table of encoding; seconds a frame of the longest video over those of the shortest."""
    print("\n| frames | tokens | CPU s | ms a frame | pixels, MB | tokens, MB | towers, peak MB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    per_frame = []
    for frames in options.frames:
        sizes = [f"--{name}={getattr(options, name)}" for name in ("image", "hidden", "layers", "seed")]
        command = [sys.executable, __file__, *sizes, f"--encode={frames}"]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found = json.loads(output.splitlines()[-1])
        per_frame.append(1000 * found["seconds"] / frames)
        print(
            f"| {frames} | {found['tokens']} | {found['seconds']:.2f} | {per_frame[-1]:.1f} | {found['pixels']:.0f} | "
            f"{found['result']:.0f} | {found['towers']:.0f} |",
            flush=True,
        )
    return per_frame[-1] / per_frame[0]


def measure_answering(options: argparse.Namespace) -> float:
    """Prints the table of answering; the gain of answering together."""
    model, processor = build(options, options.answer_frames)
    rng = np.random.default_rng(options.seed)
    settings = GenerationSettings(max_new_tokens=options.answer_tokens)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "long.mp4"
        render(clip, options)
        words = rng.integers(1, WORDS - 1, (options.questions, 20))
        requests = [
            Request(str(number), (MediaRef("video", str(clip)),), " ".join(f"w{word}" for word in question))
            for number, question in enumerate(words)
        ]

        def seconds_of(*groups: list[Request]) -> tuple[float, list[list[int]]]:
            start, tokens = time.process_time(), []
            for group in groups:
                with AnswerEngine(model, processor, settings, prompt="v1", workers=0) as engine:
                    answers = list(engine.answer(group))
                if failed := [answer.error for answer in answers if answer.error]:
                    raise SystemExit(f"error: {failed[0]}")
                tokens += [list(answer.token_ids) for answer in answers]
            return time.process_time() - start, tokens

        together, answers = seconds_of(requests)
        alone, some = seconds_of(*([request] for request in requests[: options.alone]))
    if some != answers[: options.alone]:
        raise SystemExit("error: the ways gave different tokens")
    alone *= options.questions / options.alone
    print(f"\n| {options.questions} questions, {options.answer_frames} frames | CPU s |\n| --- | ---: |")
    print(f"| one at a time | {alone:.2f} |\n| together | {together:.2f} |\n")
    return alone / together


def render(path: Path, options: argparse.Namespace) -> None:
    """A clip with a moving pattern, one frame a second."""
    rng, side = np.random.default_rng(options.seed), options.image
    pattern = np.kron(rng.integers(0, 200, (64, 64, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1)
        stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
        for number in range(options.answer_frames):
            top, left = number % (512 - side), 2 * number % (512 - side)
            picture = np.ascontiguousarray(pattern[top : top + side, left : left + side])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


if __name__ == "__main__":
    main()
