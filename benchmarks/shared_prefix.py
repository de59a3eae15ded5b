"""Questions per CPU second over one video: shared prefix against answering every question from scratch.

Two measurements, both on one thread, in CPU seconds of this process (decoding runs inside it):

- the language model alone: random embeddings stand for the visual tokens;
- everything: a real mp4 file is decoded and encoded by a CLIP tower whose cost is near that of the prefix.

"From scratch" runs the same model over the whole prompt for every question, with its own attention and cache. Each such
question costs the same, so only ``--scratch-questions`` of them are run. The tokens of both ways must agree.

    python benchmarks/shared_prefix.py
    python benchmarks/shared_prefix.py --layers 2 --frames 2 --questions 5 --repeats 1     # seconds

The last line, ``ratio <number>``, is the gain for the language model alone.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import av
import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, PreTrainedTokenizerFast

from vidtune.checkpoints.fit_processor import build_processor
from vidtune.data.sample import MediaRef
from vidtune.generation.decoding import SinglePrompt, TokenChooser, decode_steps
from vidtune.generation.engine import AnswerEngine
from vidtune.generation.prompt_tokens import PromptTokens
from vidtune.generation.settings import GenerationSettings, Request
from vidtune.generation.shared_prefix import Branches, Prefix, check_language_model
from vidtune.generation.stopping import AnswerInProgress
from vidtune.models.video_lm import VideoLM
from vidtune.processing.processor import VideoLMProcessor
from vidtune.registry import SYSTEMS

IMAGE_SIZE, PATCH_SIZE = 224, 14
TOKENS_PER_FRAME = (IMAGE_SIZE // PATCH_SIZE) ** 2 + 1
TokenIds = list[list[int]]


def main() -> None:
    options = parse_options()
    torch.set_num_threads(1)
    model, processor = build(options)
    describe(options, model)
    alone = measure_language_model(options, model)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        render(clip, options.seed)
        whole = measure_everything(options, model, processor, clip)
    print(f"\nwith decoding and encoding: {whole:.2f} times the questions per CPU second")
    print(f"ratio {alone:.2f}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=20, help="questions per video")
    parser.add_argument("--question-tokens", type=int, default=20)
    parser.add_argument("--answer-tokens", type=int, default=8)
    parser.add_argument("--frames", type=int, default=8, help=f"frames, of {TOKENS_PER_FRAME} visual tokens each")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--mlp", type=int, default=1376)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--tower-layers", type=int, help="default: as many as the language model")
    parser.add_argument("--scratch-questions", type=int, default=4, help="questions measured from scratch")
    parser.add_argument("--repeats", type=int, default=3, help="the median counts")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.tower_layers = options.tower_layers or options.layers
    options.scratch_questions = min(options.scratch_questions, options.questions)
    return options


def build(options: argparse.Namespace) -> tuple[VideoLM, VideoLMProcessor]:
    """A random model of the first system, and its processor with a tokenizer of numbered words."""
    torch.manual_seed(options.seed)
    text_config = LlamaConfig(
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        intermediate_size=options.mlp,
        vocab_size=options.vocab,
        max_position_embeddings=options.frames * TOKENS_PER_FRAME + 2048,
        bos_token_id=None,
        eos_token_id=None,
    )
    tower = {
        "hidden_size": options.hidden,
        "intermediate_size": 4 * options.hidden,
        "num_hidden_layers": options.tower_layers + 1,
        "num_attention_heads": options.heads,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
    }
    towers = {"video": {**tower, "num_frames": options.frames}, "image": {**tower, "num_hidden_layers": 2}}
    config = SYSTEMS[SYSTEMS.names()[0]].architecture.build_config(text_config, towers, {})
    last = options.vocab - 1
    words = Tokenizer(WordLevel({**{f"w{i}": i for i in range(last)}, "</s>": last}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="</s>")
    return VideoLM(config).eval(), build_processor(config, tokenizer)


def describe(options: argparse.Namespace, model: VideoLM) -> None:
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file():
        cpu = next((line.split(": ")[1] for line in info.read_text().splitlines() if "model name" in line), cpu)
    size = sum(parameter.numel() for parameter in model.language_model.parameters()) / 1e6
    print(f"machine: {cpu}, {os.cpu_count()} cores, 1 thread used, float32")
    print(
        f"versions: Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, av {av.__version__}"
    )
    print(
        f"language model: {size:.0f} M parameters (hidden {options.hidden}, {options.layers} layers, {options.heads} "
        f"heads, MLP {options.mlp}, vocabulary {options.vocab}); seed {options.seed}; median of {options.repeats}"
    )
    print(
        f"{options.questions} questions of {options.question_tokens} tokens, answers of {options.answer_tokens}, "
        f"{options.frames * TOKENS_PER_FRAME} visual tokens; from scratch {options.scratch_questions} questions are run"
    )


def measure_language_model(options: argparse.Namespace, model: VideoLM) -> float:
    """Prints the table of the language model alone; the gain over the faster way from scratch."""
    generator = torch.Generator().manual_seed(options.seed)
    language_model = model.language_model
    check_language_model(language_model)
    visual = torch.randn(options.frames * TOKENS_PER_FRAME, options.hidden, generator=generator) * 0.02
    shape = (options.questions, options.question_tokens)
    questions: TokenIds = torch.randint(options.vocab, shape, generator=generator).tolist()
    some = questions[: options.scratch_questions]
    chooser = TokenChooser(GenerationSettings(max_new_tokens=options.answer_tokens))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"w0": 0}, unk_token="w0")))

    def begin() -> AnswerInProgress:
        return AnswerInProgress("", tokenizer, (), (), options.answer_tokens)

    def embeds(question: list[int]) -> torch.Tensor:
        return language_model.get_input_embeddings()(torch.tensor(question)).detach()

    def prompt(question: list[int]) -> PromptTokens:
        return PromptTokens.of([torch.cat([visual, embeds(question)])])

    def shared() -> TokenIds:
        answers = [begin() for _ in questions]
        prefix = Prefix(language_model, PromptTokens.of([visual]))
        branches = Branches(prefix, PromptTokens.of(list(map(embeds, questions)), begin=len(visual)))
        for _ in decode_steps(branches, answers, chooser):
            pass
        return [answer.token_ids for answer in answers]

    def scratch() -> TokenIds:
        answers = [begin() for _ in some]
        for question, answer in zip(some, answers, strict=True):
            for _ in decode_steps(SinglePrompt(language_model, prompt(question)), [answer], chooser):
                pass
        return [answer.token_ids for answer in answers]

    def generate() -> TokenIds:
        found = []
        for question in some:
            whole = prompt(question).embeds
            mask = torch.ones(whole.shape[:2], dtype=torch.long)
            ids = language_model.generate(
                inputs_embeds=whole,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=options.answer_tokens,
                pad_token_id=0,
            )
            found.append(ids[0].tolist())
        return found

    ways: dict[str, Callable[[], TokenIds]] = {
        "from scratch, transformers generate": generate,
        "from scratch, our plain path": scratch,
        "shared prefix": shared,
    }
    seconds = timed(ways, options.repeats)
    return table("language model alone", seconds, options)


def measure_everything(options: argparse.Namespace, model: VideoLM, processor: VideoLMProcessor, clip: Path) -> float:
    """Prints the table with decoding and encoding; the gain."""
    rng = np.random.default_rng(options.seed)
    settings = GenerationSettings(max_new_tokens=options.answer_tokens)
    closing = 2  # the words "ASSISTANT" and ":" after the question
    requests = [
        Request(str(i), (MediaRef("video", str(clip)),), " ".join(f"w{word}" for word in words))
        for i, words in enumerate(
            rng.integers(1, options.vocab, (options.questions, options.question_tokens - closing))
        )
    ]
    prompt = SYSTEMS[SYSTEMS.names()[0]].dialect.answering_prompt

    def answer(share: bool, count: int) -> TokenIds:
        with AnswerEngine(model, processor, settings, prompt=prompt, workers=0, share_prefix=share) as engine:
            answers = list(engine.answer(requests[:count]))
        if failed := [answer.error for answer in answers if answer.error]:
            raise SystemExit(f"error: {failed[0]}")
        return [list(answer.token_ids) for answer in answers]

    preprocessing = processor.streams["video"].preprocessing
    pixels = torch.from_numpy(preprocessing.load(str(clip)))[None]
    with torch.inference_mode():
        tokens = PromptTokens.of(list(model.encode("video", pixels)))
        parts = {
            "decode": lambda: preprocessing.load(str(clip)),
            "encode": lambda: model.encode("video", pixels),
            "prefix": lambda: Prefix(model.language_model, tokens),
        }
        once = timed(parts, options.repeats, check=False)
    print(f"\none video, CPU s: {', '.join(f'{name} {seconds:.2f}' for name, seconds in once.items())}")
    seconds = timed(
        {
            "from scratch, our plain path": partial(answer, False, options.scratch_questions),
            "shared prefix": partial(answer, True, options.questions),
        },
        options.repeats,
    )
    return table("with decoding and encoding", seconds, options)


def timed(ways: Mapping[str, Callable[[], Any]], repeats: int, check: bool = True) -> dict[str, float]:
    """Median CPU seconds of each; the ways take turns, so that a busy machine disturbs all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.process_time()
            results[name] = way()
            seconds[name].append(time.process_time() - start)
    if check:
        count = min(len(tokens) for tokens in results.values())
        if any(tokens[:count] != results["shared prefix"][:count] for tokens in results.values()):
            raise SystemExit(f"error: the ways gave different tokens: {results}")
    return {name: median(values) for name, values in seconds.items()}


def table(title: str, seconds: dict[str, float], options: argparse.Namespace) -> float:
    rates = {
        name: (options.questions if name == "shared prefix" else options.scratch_questions) / value
        for name, value in seconds.items()
    }
    best = max(rate for name, rate in rates.items() if name != "shared prefix")
    print(f"\n| {title} | CPU s per {options.questions} questions | questions per CPU s | against best from scratch |")
    print("| --- | ---: | ---: | ---: |")
    for name, rate in rates.items():
        print(f"| {name} | {options.questions / rate:.2f} | {rate:.2f} | {rate / best:.2f} |")
    return rates["shared prefix"] / best


def render(path: Path, seed: int) -> None:
    """A clip of 10 s, 480 x 360, 30 frames/s, H.264: a moving pattern with noise."""
    rng = np.random.default_rng(seed)
    pattern = np.kron(rng.integers(0, 200, (45, 60, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 480, 360, "yuv420p"
        for i in range(300):
            noise = rng.integers(0, 20, (360, 480, 1), dtype=np.uint8)
            picture = pattern[i // 2 : i // 2 + 360, i : i + 480] + noise
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


if __name__ == "__main__":
    main()
