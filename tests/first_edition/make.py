"""Write the files of this folder with the code of a fixed commit, the first edition.

They were written by commit 122767bb7fed07a4699a2fc247694d5f830542fa. This script runs with that code only and is kept
to say how they came about; files that exist are never written anew. To repeat it::

    git worktree add /tmp/before 122767bb7fed07a4699a2fc247694d5f830542fa
    export PYTHONPATH=/tmp/before/src OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
    cd /tmp && python .../first_edition/make.py /tmp/built /tmp/new_folder

The first folder is worked in, the second takes the result. Wherever a written text names the folder it was made in,
the result has ``@HERE@`` instead; whoever uses it copies it, puts the place of the copy there, unpacks ``*.xz``, and
sets the time of change of all files below ``world`` to `MTIME` (features are stored by a file's content and that time).
"""

import contextlib
import io
import json
import lzma
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, PreTrainedTokenizerFast
from vidtune.models.build import build_processor
from vidtune.models.checkpoints import Checkpoint, LoadReport, load_checkpoint, save_checkpoint
from vidtune.recipes import list_recipes

import vidtune
import vidtune.data.writing.tokenizer as world_tokenizer
from vidtune.cli.main import run as vidtune_run
from vidtune.models.towers import tower_config
from vidtune.models.video_lm import VideoLM
from vidtune.processing.tokenizer import load_tokenizer
from vidtune.recipe import load_recipe
from vidtune.systems import get_system
from vidtune.training.run import train
from vidtune.training.signals import TrainingInterrupted

COMMIT = "122767bb7fed07a4699a2fc247694d5f830542fa"
HERE = "@HERE@"
MTIME = 1_750_000_000
TEXTS = {".json", ".jsonl", ".yaml", ".md", ".txt", ".html"}
KEPT_POSITIONS = 3

ROOT = Path()
EXPECTED: dict[str, Any] = {"commit": COMMIT, "mtime": MTIME, "answers": {}, "logits": {}, "features": {}, "runs": {}}
TENSORS: dict[str, torch.Tensor] = {}

TEXT_SIZES = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TOWER = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "image_size": 16,
    "patch_size": 8,
}
STAB = {"hidden_size": 8, "image_size": 16, "patch_size": 4, "clip_heads": 1, "frame_heads": 2, "dropout": 0.0}
STAB |= {"num_frames": 4, "chunk_frames": 2}
BEATS = {
    "input_patch_size": 16,
    "embed_dim": 8,
    "conv_bias": False,
    "encoder_layers": 1,
    "encoder_embed_dim": 8,
    "encoder_ffn_embed_dim": 12,
    "encoder_attention_heads": 2,
    "activation_fn": "gelu",
    "layer_wise_gradient_decay_ratio": 0.6,
    "layer_norm_first": False,
    "deep_norm": True,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.05,
    "dropout_input": 0.0,
    "conv_pos": 8,
    "conv_pos_groups": 2,
    "relative_position_embedding": True,
    "num_buckets": 16,
    "max_distance": 40,
    "gru_rel_pos": True,
    "finetuned_model": False,
}
WHISPER = {
    "model_type": "whisper",
    "d_model": 4,
    "encoder_layers": 1,
    "encoder_attention_heads": 1,
    "encoder_ffn_dim": 8,
    "num_mel_bins": 80,
    "max_source_positions": 1500,
    "activation_function": "gelu",
}
VISION = {"hidden_size": 8, "width": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 1}
LORA = {"learning_rate": 1e-2, "lora": {"rank": 2, "alpha": 4}}


def vidtune_command(*words: object, code: int = 0) -> str:
    """Run a command of the first edition; what it printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        found = vidtune_run([str(word) for word in words])
    assert found == code, (words, found, said.getvalue())
    return said.getvalue()


def write_video(path: Path, colour: tuple[int, int, int], frames: int = 6, fps: int = 10, sound: float = 0) -> None:
    """A box that moves; with ``sound`` seconds of a rising tone."""
    rate = 16000
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=fps)
        picture.width = picture.height = 32
        picture.pix_fmt = "yuv420p"
        track = container.add_stream("aac", rate=rate, layout="mono") if sound else None
        for number in range(frames):
            pixels = np.full((32, 32, 3), 20, np.uint8)
            pixels[8:24, 2 * number : 2 * number + 8] = colour
            container.mux(picture.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(picture.encode())
        if track is not None:
            time = np.arange(int(rate * sound)) / rate
            wave = (0.4 * np.sin(2 * np.pi * (200 + 40 * time) * time)).astype(np.float32)
            for begin in range(0, len(wave), 1024):
                frame = av.AudioFrame.from_ndarray(wave[None, begin : begin + 1024], "fltp", "mono")
                frame.sample_rate, frame.pts = rate, begin
                container.mux(track.encode(frame))
            container.mux(track.encode())


def talk(question: str, answer: str, **media: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {**media, "conversations": turns}


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))


def write_recipe(name: str, recipe: dict[str, Any]) -> str:
    """A recipe in ``recipes``; its path from the folder in which everything runs."""
    (ROOT / "recipes").mkdir(exist_ok=True)
    (ROOT / f"recipes/{name}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False, width=110))
    return f"recipes/{name}.yaml"


def make_world() -> None:
    """Media files, annotations, test sets, loose features and a tokenizer."""
    world = ROOT / "world"
    (world / "media").mkdir(parents=True)
    colours = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
    for name, colour in colours.items():
        write_video(world / f"media/{name}.mp4", colour)
        Image.fromarray(np.full((20, 30, 3), colour, np.uint8)).save(world / f"media/{name}.png")
    write_video(world / "media/talk.mp4", (200, 200, 30), frames=12, fps=4, sound=3.0)
    (world / "media/broken.mp4").write_bytes((world / "media/red.mp4").read_bytes()[:200])
    samples = [talk("<video>\nWhat moves?", f"a {name} box.", video=f"{name}.mp4") for name in colours]
    samples += [talk("<image>\nWhich colour?", f"{name}.", image=f"{name}.png") for name in ("red", "green")]
    samples += [talk("<video>\nWhat moves?", "nothing.", video="broken.mp4")]
    samples += [talk("Say hello.", "hello."), talk("<video>\nWhere is it?", "a sample without its video.")]
    write_json(world / "train.json", samples)
    pictures = [talk("Describe. <image>", f"{name}.", image=f"{name}.png") for name in ("red", "green")]
    write_json(world / "pictures.json", [{"id": f"p{n}", **sample} for n, sample in enumerate(pictures)])
    clips = []
    rng = np.random.default_rng(0)
    widths = {"video": (100, 8), "audio": (3, 8), "speech": (5, 4)}
    for number, text in enumerate(("a red box.", "a blue box.", "nothing.")):
        for stream, shape in widths.items():
            if (stream, number) != ("audio", 1):
                values = rng.standard_normal(shape).astype(np.float16 if stream == "video" else np.float32)
                (world / "loose" / stream).mkdir(parents=True, exist_ok=True)
                np.save(world / f"loose/{stream}/v{number}.npy", values)
        turns = talk("<video>\nWhat happened from <s0> to <e0>?", text)
        meta = {"duration": 40.0, "token": {"<s0>": 4.0, "<e0>": 20.0 + number}}
        clips.append({"id": f"v{number}", "source": "made", **turns, "meta": meta})
    write_json(world / "clips.json", clips)
    qa = world / "eval/GPT_Zero_Shot_QA/World_Zero_Shot_QA"
    (qa / "videos").mkdir(parents=True)
    for name in ("red", "blue"):
        shutil.copy(world / f"media/{name}.mp4", qa / "videos")
    asked = [(video, text) for text in ("What moves?", "Which colour is it?") for video in ("red", "blue", "absent")]
    asked += [("red", "Is it a box?"), ("blue", "How many boxes are there?")]
    write_json(
        qa / "test_q.json",
        [{"video_name": v, "question": q, "question_id": f"{v}_{number}"} for number, (v, q) in enumerate(asked)],
    )
    write_json(qa / "test_a.json", [{"answer": "box", "type": "first"}] * len(asked))
    events = world / "eval/events"
    (events / "videos").mkdir(parents=True)
    shutil.copy(world / "media/talk.mp4", events / "videos/talk.mp4")
    shutil.copy(world / "media/red.mp4", events / "videos/quiet.mp4")
    annotations = {
        "talk": {"duration": 3.0, "timestamps": [[0, 1], [1, 3]], "sentences": ["A tone starts.", "A box moves away."]},
        "quiet": {"duration": 0.6, "timestamps": [[0.1, 0.5]], "sentences": ["A red box moves to the right."]},
        "absent": {"duration": 5, "timestamps": [[1, 2]], "sentences": ["A bell rings."]},
    }
    write_json(events / "annotations.json", annotations)
    texts = ["A chat between a curious user and an artificial intelligence assistant. USER: ASSISTANT: a red blue box"]
    texts += [turn["value"] for sample in samples + clips for turn in sample["conversations"]]
    world_tokenizer.train_tokenizer(texts * 20, world / "tokenizer", size=320)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte; 256 begins and 257 ends a sequence."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)}
    vocabulary = {characters[byte]: byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab={**vocabulary, "<s>": 256, "</s>": 257}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def drawn(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """The module with weights large enough that what it sees decides what it says, and that mostly in words."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                inside = "layers." in name or "connectors." in name
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.8 if inside else 0.3))
            if len(parameter) == 320:  # embeddings and head of the tokenizer of the world: single bytes are rare
                parameter[:259] *= 0.2
    return module.eval()


def make_whole_checkpoints() -> None:
    """Our own format: Video-LLaVA and LongVALE-LLM tied, Video-Panda untied and with its distillation head."""
    tokenizer = load_tokenizer(ROOT / "world/tokenizer")
    text = AutoConfig.for_model("llama", **TEXT_SIZES, vocab_size=len(tokenizer), tie_word_embeddings=True)
    config = get_system("video_llava").build_config(text, {"image": TOWER, "video": {**TOWER, "num_frames": 4}}, {})
    model = drawn(VideoLM(config), 1)
    folder = ROOT / "checkpoints/video_llava"
    save_checkpoint(Checkpoint(model, build_processor(config, tokenizer), LoadReport("memory")), folder)
    (folder / "recipe.yaml").write_text("system: video_llava\nlanguage_model: none\n")
    longvale = get_system("longvale")
    towers = {
        "vision": {**VISION, "image_size": 16, "patch_size": 8, "num_frames": 6},
        "audio": longvale.tower_file("audio").read_sizes(BEATS, {}),
        "speech": longvale.tower_file("speech").read_sizes(WHISPER, {}),
    }
    config = longvale.build_config(text, towers, {})
    checkpoint = Checkpoint(drawn(VideoLM(config), 10), build_processor(config, tokenizer), LoadReport("memory"))
    save_checkpoint(checkpoint, ROOT / "checkpoints/longvale")
    sizes = {**TEXT_SIZES, "num_hidden_layers": 4, "pad_token_id": None, "bos_token_id": 256, "eos_token_id": 257}
    text = AutoConfig.for_model("llama", **sizes, vocab_size=258, tie_word_embeddings=False)
    config = get_system("video_panda").build_config(text, {"video": STAB}, {})
    config.alignments = {"video": {"input_size": 8, "output_size": 8, "layers": [4, 0]}}
    model = drawn(VideoLM(config), 2)
    with torch.no_grad():
        model.towers["video"].local_encoding.norm.running_mean.normal_(generator=torch.Generator().manual_seed(3))
    checkpoint = Checkpoint(model, build_processor(config, byte_tokenizer()), LoadReport("memory"))
    save_checkpoint(checkpoint, ROOT / "checkpoints/video_panda")
    save_checkpoint(checkpoint, ROOT / "published/video_panda/official", "official")


def save_language_model(folder: Path, seed: int) -> None:
    tokenizer = load_tokenizer(ROOT / "world/tokenizer")
    text = AutoConfig.for_model("llama", **TEXT_SIZES, vocab_size=len(tokenizer), tie_word_embeddings=False)
    from transformers import AutoModelForCausalLM

    drawn(AutoModelForCausalLM.from_config(text), seed).save_pretrained(folder)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(ROOT / "world/tokenizer" / name, folder)


def make_published_parts() -> None:
    """Language models and towers in the files that they are published in."""
    parts = ROOT / "parts"
    save_language_model(parts / "llm", 4)
    for seed, name in enumerate(("image", "video"), 5):
        sizes = {**TOWER, "hidden_act": "gelu", "add_time_attn": name == "video", "num_frames": 2}
        spec = {**TOWER, "type": "clip", "hidden_act": "gelu"}
        if name == "video":
            spec |= {"num_frames": 2, "temporal_attention": True}
        tower = drawn(tower_config(spec).build(), seed)
        (parts / name).mkdir(parents=True)
        save_file({f"vision_model.{k}": v for k, v in tower.state_dict().items()}, parts / name / "model.safetensors")
        write_json(parts / name / "config.json", {"vision_config": sizes})
    longvale = get_system("longvale")

    def published(name: str, spec: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
        keys, state = longvale.tower_file(name).keys, drawn(tower_config(spec).build(), seed).state_dict()
        theirs = {keys.to_theirs(name): tensor.contiguous() for name, tensor in state.items()}
        return theirs if keys.restore is None else keys.restore(theirs)

    save_archive(
        published("vision", {**VISION, "type": "clip_class", "image_size": 16, "patch_size": 8}, 7),
        parts / "ViT-L-14.pt",
    )
    settings = longvale.tower_file("audio").read_sizes(BEATS, {})
    torch.save({"cfg": BEATS, "model": published("audio", {**settings, "type": "beats"}, 8)}, parts / "BEATs.pt")
    settings = longvale.tower_file("speech").read_sizes(WHISPER, {})
    (parts / "whisper").mkdir()
    state = published("speech", {**settings, "type": "whisper"}, 9)
    save_file(
        {k if k.startswith("model.") else f"model.{k}": v for k, v in state.items()},
        parts / "whisper/model.safetensors",
    )
    write_json(parts / "whisper/config.json", WHISPER)


def save_archive(state: dict[str, torch.Tensor], path: Path) -> None:
    """A TorchScript archive, laid out as OpenAI's, by the helper of the first edition's own tests."""
    tests = Path(vidtune.__file__).parents[2] / "tests/models"
    sys.path.insert(0, str(tests))
    from openai_archive import save_archive as save

    save(state, path)


def stage(name: str, **settings: Any) -> dict[str, Any]:
    source = {"annotations": "${DATA_ROOT}/train.json", "media": "${DATA_ROOT}/media"}
    common = {"data": [source], "global_batch_size": 2, "workers": 0, "log_every": 1, "warmup": 0.0}
    return {"name": name, **common, **settings}


def uninterrupted(name: str, recipe: str, stop_after: list[int], keep_tables: bool) -> None:
    """A run that is stopped in the middle, and the weights it comes to when it is not."""
    loaded = load_recipe(recipe)
    whole = train(loaded, Path(f"whole/{name}"), progress=False)
    for steps in stop_after:
        with contextlib.suppress(TrainingInterrupted):
            train(loaded, Path(f"runs/{name}"), stop_after=steps, progress=False)
    last = loaded.stages[-1].name
    assert not (ROOT / f"runs/{name}/{last}/final").exists()
    shutil.copytree(f"runs/{name}", f"resumed/{name}")
    resumed = train(loaded, Path(f"resumed/{name}"), progress=False)
    files = {}
    for path in sorted(whole.rglob("*.safetensors")):
        other = load_file(resumed / path.relative_to(whole))
        for key, tensor in load_file(path).items():
            # With stored features of a teacher, equal to float rounding only.
            torch.testing.assert_close(other[key], tensor, atol=1e-6, rtol=1e-5, msg=key)
            assert loaded.features or torch.equal(tensor, other[key]), key
            if path.name != "base_sample.safetensors":
                files[f"{path.relative_to(whole)}|{key}"] = tensor
    TENSORS.update({f"run|{name}|{key}": tensor for key, tensor in files.items()})
    log = [json.loads(line) for line in (whole.parent / "log.jsonl").read_text().splitlines()]
    EXPECTED["runs"][name] = {
        "recipe": recipe,
        "stage": last,
        "losses": [line["loss"] for line in log],
        "excluded": [json.loads(line)["id"] for line in (whole.parent / "excluded.jsonl").read_text().splitlines()],
    }
    if not keep_tables:
        shutil.rmtree(f"runs/{name}/tables")


def make_stopped_runs() -> None:
    """Two stages stopped in the second, a LoRA; and one with a teacher and stored features."""
    small = {**TOWER, "num_frames": 2}
    recipe = {
        "system": "video_llava",
        "language_model": {"model_type": "llama", **TEXT_SIZES, "tie_word_embeddings": True},
        "tokenizer": "${DATA_ROOT}/tokenizer",
        "towers": {"image": TOWER, "video": small},
        "seed": 3,
        "stages": [
            stage("align", train={"connectors": 1e-2, "language_model": 1e-2, "towers.image": 1e-2}, epochs=0.5),
            stage(
                "tune",
                train={
                    "language_model": {"learning_rate": 1e-2, "lora": {"rank": 2, "alpha": 4, "dropout": 0.1}},
                    "connectors": 1e-3,
                    "towers.video": {"learning_rate": 1e-3, "lora": {"rank": 1, "layers": ["q_proj"]}},
                },
                max_steps=5,
                media={"video": {"flip_probability": 0.5}},
                max_grad_norm=1.0,
                weight_decay=0.1,
            ),
        ],
        "benchmarks": [{"name": "world_qa", "data": "${DATA_ROOT}/eval"}],
        "generation": {"max_new_tokens": 6},
    }
    # Two steps align, then three of five in the second stage.
    uninterrupted("align_tune", write_recipe("align_tune", recipe), [2, 3], keep_tables=True)
    recipe = {
        "system": "video_panda",
        "checkpoint": "checkpoints/video_panda",
        "distillation": {"video": {"teacher": "checkpoints/video_llava", "weight": 0.5, "layers": [4, 0]}},
        "features": "auto",
        "trackers": [],
        "seed": 4,
        "stages": [
            stage(
                "align",
                train={"towers": 1e-3, "connectors": 1e-3, "alignments": 1e-3},
                data=[{"annotations": "${DATA_ROOT}/train.json", "media": "${DATA_ROOT}/media", "weight": 1.5}],
                order="modality_grouped",
                prompt="videopanda_v1",
                max_steps=4,
            ),
        ],
    }
    uninterrupted("distilled", write_recipe("distilled", recipe), [2], keep_tables=True)


def make_lora_results() -> None:
    """A bundle on published parts, the same in the official layouts, and a bundle whose base has moved."""
    recipe = {
        "system": "video_llava",
        "language_model": f"{ROOT}/parts/llm",
        "towers": {name: f"{ROOT}/parts/{name}" for name in ("image", "video")},
        "trackers": [],
        "stages": [stage("tune", train={"language_model": LORA, "connectors": 1e-2}, max_steps=2)],
    }
    vidtune_command("train", write_recipe("on_parts", recipe), "--out", "runs/on_parts")
    bundle = "runs/on_parts/tune/final"
    for name, form in (("lora", "official_lora"), ("projector", "projector"), ("official", "official")):
        vidtune_command("convert", bundle, f"published/video_llava/{name}", "--to", form)
    shutil.copytree("checkpoints/video_llava", "gone/base")
    lora = {"learning_rate": 1e-2, "lora": {"rank": 2, "alpha": 4, "layers": ["q_proj", "down_proj"]}}
    train_ = {"language_model": lora, "connectors": 1e-2}
    recipe = {**recipe, "stages": [stage("tune", train=train_, max_steps=2, **{"from": f"{ROOT}/gone/base"})]}
    vidtune_command("train", write_recipe("base_moved", recipe), "--out", "runs/base_moved")
    shutil.rmtree("gone")
    for name in ("on_parts", "base_moved"):
        shutil.rmtree(f"runs/{name}/tables")


def make_features() -> None:
    """A store with features of clips, and loose ones that were imported."""
    words = [word for name in ("video", "image") for word in ("--tower", f"video_llava:{name}=parts/{name}")]
    words += ["--videos", "world/media", "--workers", 0]
    said = vidtune_command("features", "extract", "--store", "store", *words, "--dtype", "bfloat16")
    EXPECTED["features"]["extract"] = {"words": [str(word) for word in words], "said": said}
    for stream in ("video", "audio", "speech"):
        vidtune_command("features", "import", f"world/loose/{stream}", "--store", "store", "--name", f"{stream}_loose")
    for path in sorted((ROOT / "store").rglob("*.safetensors")):
        for item, values in load_file(path).items():
            parts = path.relative_to(ROOT / "store").parts
            TENSORS[f"features|{parts[0]}|{item if parts[1] == 'shards' else path.stem}"] = values
    EXPECTED["features"]["list"] = vidtune_command("features", "list", "--store", "store").splitlines()


def make_longvale() -> None:
    """Three stages on towers in their published files: a projector, a LoRA, and a LoRA on that one."""
    adapted = {"language_model": LORA, "connectors.audio": 1e-2, "connectors.speech": 1e-2}
    folders = {stream: f"{ROOT}/store/{stream}_loose" for stream in ("video", "audio", "speech")}
    clips = {"annotations": f"{ROOT}/world/clips.json", "features": folders}
    pictures = {"annotations": f"{ROOT}/world/pictures.json", "media": f"{ROOT}/world/media"}
    recipe = {
        "system": "longvale",
        "language_model": f"{ROOT}/parts/llm",
        "towers": {
            "vision": f"{ROOT}/parts/ViT-L-14.pt",
            "audio": f"{ROOT}/parts/BEATs.pt",
            "speech": f"{ROOT}/parts/whisper",
        },
        "trackers": [],
        "stages": [
            stage("projector", train={"connectors.visual": 1e-2}, data=[pictures], prompt="plain", max_steps=2),
            stage("perceive", train=adapted, data=[clips], prompt="v1", max_steps=2),
            stage("instruct", train=adapted, data=[clips], prompt="v1", max_steps=2),
        ],
        "benchmarks": [{"name": "world_events", "data": f"{ROOT}/world/eval/events"}],
        "generation": {"max_new_tokens": 6},
    }
    vidtune_command("train", write_recipe("longvale", recipe), "--out", "runs/longvale")
    for name, form in (("projector", "projector"), ("perceive", "official_lora"), ("instruct", "official_lora")):
        vidtune_command("convert", f"runs/longvale/{name}/final", f"published/longvale/{name}", "--to", form)
    shutil.rmtree("runs/longvale/tables")


MEDIA = {
    "video": {"videos": ["world/media/red.mp4"]},
    "image": {"images": ["world/media/green.png"]},
    "talk": {"videos": ["world/media/talk.mp4"]},
    "loose": {"videos": ["store/video_loose/v0.safetensors"]},
}
QUESTION = "What moves?"
STACK = ["parts/llm", "published/longvale/projector/mm_projector.bin", "published/longvale/perceive"]
TOWERS = {"vision": "parts/ViT-L-14.pt", "audio": "parts/BEATs.pt", "speech": "parts/whisper"}
# name -> checkpoint, what it stands on, towers that it comes without, media.
OPENED: dict[str, tuple[str, list[str], dict[str, str], list[str]]] = {
    "native_video_llava": ("checkpoints/video_llava", [], {}, ["video", "image"]),
    "native_video_panda": ("checkpoints/video_panda", [], {}, ["video", "image"]),
    "native_longvale": ("checkpoints/longvale", [], {}, ["talk", "image"]),
    "native_trained": ("runs/align_tune/align/final", [], {}, ["video", "image"]),
    "bundle_on_parts": ("runs/on_parts/tune/final", [], {}, ["video", "image"]),
    "bundle_base_moved": ("runs/base_moved/tune/final", ["checkpoints/video_llava"], {}, ["video", "image"]),
    "bundle_on_bundle": ("runs/longvale/instruct/final", [], {}, ["talk"]),
    "official_video_llava": ("published/video_llava/official", [], {}, ["video", "image"]),
    "official_video_panda": ("published/video_panda/official", [], {}, ["video", "image"]),
    "lora_video_llava": ("published/video_llava/lora", ["parts/llm"], {}, ["video", "image"]),
    "projector_video_llava": (
        "published/video_llava/projector/mm_projector.bin",
        ["checkpoints/video_llava"],
        {},
        ["video", "image"],
    ),
    "stack_longvale": ("published/longvale/instruct", STACK, {}, ["loose"]),
    "stack_longvale_with_towers": ("published/longvale/instruct", STACK, TOWERS, ["talk"]),
}


def note_answers() -> None:
    """What every checkpoint says, by the command line, and its last logits."""
    for name, (place, base, towers, media) in OPENED.items():
        loaded = load_checkpoint(place, base=base, towers=towers)
        for kind in media:
            inputs = loaded.processor(QUESTION, **MEDIA[kind])
            with torch.no_grad():
                logits = loaded.model(**inputs).logits[0, -KEPT_POSITIONS:]
            best = logits[-1].topk(2).values
            print(name, kind, tuple(logits.shape), f"margin {float(best[0] - best[1]):.3f}")
            TENSORS[f"logits|{name}|{kind}"] = logits.float().contiguous()
        EXPECTED["logits"][name] = {
            "checkpoint": place,
            "base": base,
            "towers": towers,
            "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
            "media": {kind: MEDIA[kind] for kind in media},
        }
        words = [place, *(w for b in base for w in ("--model-base", b))]
        words += [w for tower, file in towers.items() for w in ("--tower", f"{tower}={file}")]
        for kind in media:
            asked = [
                w
                for stream in ("video", "image")
                for f in MEDIA[kind].get(f"{stream}s", ())
                for w in (f"--{stream}", f)
            ]
            if kind == "loose":
                asked = [w for s in ("video", "audio") for w in ("--features", f"{s}=store/{s}_loose/v0.safetensors")]
                asked += ["--duration", "40"]
            asked += ["--question", QUESTION, "--question", "Which colour?", "--max-new-tokens", "8", "--json"]
            lines = vidtune_command("answer", *words, *asked).splitlines()
            EXPECTED["answers"][f"{name}|{kind}"] = {
                "words": [*words, *asked],
                "answers": [json.loads(line)["answer"] for line in lines],
            }
            print(" ", EXPECTED["answers"][f"{name}|{kind}"]["answers"])


def make_evaluations() -> None:
    """Runs of a judged and of a measured benchmark: complete, half-way, imported."""
    checkpoint = "published/video_llava/official"
    words = ["--benchmark", "world_qa", "--data", "world/eval", "--workers", 0]
    words += ["--protocol", "generation.max_new_tokens=8"]
    vidtune_command("evaluate", checkpoint, "--out", "whole/qa", "--judge", "none", *words)
    lines = [json.loads(line) for line in Path("whole/qa/world_qa/predictions.jsonl").read_text().splitlines()]
    # Half of the right answers are what the model says, so that the scores are more than nothing.
    answers_file = Path("world/eval/GPT_Zero_Shot_QA/World_Zero_Shot_QA/test_a.json")
    answers = [{"answer": "a box", "type": "what" if number < 3 else "other"} for number in range(8)]
    for line in lines:
        if line["index"] in (0, 4, 6):
            answers[line["index"]]["answer"] = line["pred"]
    write_json(answers_file, answers)
    stamp_world()
    vidtune_command("evaluate", checkpoint, "--out", "evals/done", *words)
    half = ROOT / "evals/half/world_qa"
    half.mkdir(parents=True)
    for name in ("run.json", "missing.jsonl", "sessions.jsonl"):
        shutil.copy(ROOT / "evals/done/world_qa" / name, half)
    predictions = (ROOT / "evals/done/world_qa/predictions.jsonl").read_bytes().splitlines(keepends=True)
    (half / "predictions.jsonl").write_bytes(b"".join(predictions[:3]) + predictions[3][:40])  # killed in a line
    EXPECTED["evaluate"] = {"words": [checkpoint, *map(str, words)]}
    events = ["--benchmark", "world_events", "--data", "world/eval/events", "--workers", 0]
    events += ["--protocol", "generation.max_new_tokens=6"]
    longvale = "checkpoints/longvale"
    vidtune_command("evaluate", longvale, "--out", "evals/events", *events, "--without", "speech")
    EXPECTED["evaluate_events"] = {"words": [longvale, *map(str, events), "--without", "speech"]}
    log = [
        ("talk", "captioning", None, "From 00 to 40, a tone starts. From 30 to 99, a box moves."),
        ("talk", "grounding", 0, "From 00 to 40."),
        ("talk", "grounding", 1, "From 35 to 90."),
        ("talk", "seg_captioning", 0, "A tone."),
        ("talk", "seg_captioning", 1, "A red box moves away slowly."),
        ("quiet", "captioning", None, "From 10 to 80, a red box moves to the left."),
        ("quiet", "grounding", 0, "no idea"),
        ("quiet", "seg_captioning", 0, "A red box moves to the right."),
    ]
    records = [
        {"video_id": v, "task": t, "query_id": 0, "answer": a, "info": {} if n is None else {"sentence_id": n}}
        for v, t, n, a in log
    ]
    Path("evals/imported.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    vidtune_command("judge", "evals/imported.jsonl", "--benchmark", "world_events", "--data", "world/eval/events")


def keep_recipes() -> None:
    """The shipped recipes, as they are and resolved."""
    for name in list_recipes():
        (ROOT / "shipped").mkdir(exist_ok=True)
        (ROOT / f"shipped/{name}.yaml").write_text(vidtune_command("recipes", "show", name))
        (ROOT / f"shipped/{name}.resolved.yaml").write_text(vidtune_command("recipes", "show", name, "--resolved"))


def stamp_world() -> None:
    """One time of change for all of the world: stored features and cached metadata go by it."""
    for path in sorted((ROOT / "world").rglob("*")):
        if path.is_file():
            os.utime(path, (MTIME, MTIME))


def hand_over(target: Path) -> None:
    """Copy what is kept; the folder that it was made in is called ``HERE`` in every text."""
    for name in ("world", "checkpoints", "parts", "published", "store", "runs", "evals", "recipes", "shipped"):
        shutil.copytree(ROOT / name, target / name)
    for path in sorted(target.rglob("*")):
        if path.name == ".lock":
            path.unlink()
        elif path.name.startswith("events.out.tfevents."):
            path.rename(path.with_name(f"events.out.tfevents.{MTIME}.host.1.{path.name[-1]}"))
        elif path.name.endswith(".distcp") or path.name == ".metadata":  # mostly padding
            path.with_name(path.name + ".xz").write_bytes(lzma.compress(path.read_bytes()))
            path.unlink()
        elif path.name == "index.jsonl" or path.parent.name == "shards":
            continue  # of the store: they name the files that the features are of, and must agree
        elif path.suffix in TEXTS and path.is_file():
            path.write_text(path.read_text().replace(str(ROOT), HERE))
        elif path.is_file() and str(ROOT).encode() in path.read_bytes():
            raise SystemExit(f"{path} holds the place it was made in, and is no text")
    # Last, beside make.py, what the test expects.
    save_file(TENSORS, target / "expected.safetensors")
    (target / "expected.json").write_text(json.dumps(EXPECTED, indent=1).replace(str(ROOT), HERE) + "\n")


def main(build: Path, target: Path) -> None:
    global ROOT
    source = Path(vidtune.__file__).parent
    head = subprocess.run(["git", "-C", source, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert head.stdout.strip() == COMMIT, f"{source} is not the first edition"
    os.environ["DATA_ROOT"] = "world"
    os.environ.pop("EVAL_ROOT", None)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    build.mkdir(parents=True)
    ROOT = build.resolve()
    os.chdir(ROOT)
    make_world()
    stamp_world()
    make_whole_checkpoints()
    make_published_parts()
    make_features()
    make_lora_results()
    make_longvale()
    make_stopped_runs()
    note_answers()
    make_evaluations()
    keep_recipes()
    hand_over(target)
    assert math.isfinite(sum(float(tensor.float().sum()) for tensor in TENSORS.values()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]).resolve())
