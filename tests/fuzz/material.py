"""Small valid files of every kind that a user gives to vidtune."""

import json
import pickle
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_checkpoint import write_checkpoint
from tiny_language_models import byte_tokenizer
from training_world import LANGUAGE_MODEL, TOWER, conversation, write_video

from vidtune.checkpoints.build import build_model
from vidtune.cli.main import run
from vidtune.recipe.files import load_recipe

SYSTEM = {
    "system": "video_llava",
    "language_model": LANGUAGE_MODEL,
    "tokenizer": "tokenizer",
    "towers": {"image": {**TOWER, "patch_size": 14}, "video": {**TOWER, "patch_size": 14, "num_frames": 4}},
    "trackers": [],
}
SOUND = {
    "system": "longvale",
    "language_model": LANGUAGE_MODEL,
    "tokenizer": "tokenizer",
    "towers": {
        "vision": {
            "hidden_size": 16,
            "width": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 16,
            "num_frames": 4,
        },
        "audio": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "patch_width": 8,
            "position_kernel": 4,
            "position_groups": 2,
        },
        "speech": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2},
    },
}
STAGE = {
    "name": "align",
    "train": {"connectors": 1e-2},
    "global_batch_size": 2,
    "workers": 0,
    "media_timeout": 15,
    "log_every": 1,
    "max_excluded": 0.9,
}
IMAGES = ("jpg", "png", "webp", "gif", "bmp", "tiff")


def write_recipe(folder: Path, name: str = "recipe.yaml", system: dict[str, Any] | None = None, **changes: Any) -> None:
    """A recipe of one stage over train.json and media, with a tokenizer beside it; ``changes`` are of the stage."""
    stage = {**STAGE, "data": [{"annotations": "train.json", "media": "media"}], **changes}
    values = {**(system or SYSTEM), "stages": [stage], "benchmarks": [{"name": "msvd_qa", "data": "eval"}]}
    (folder / name).write_text(yaml.safe_dump(values, sort_keys=False))
    byte_tokenizer().save_pretrained(folder / "tokenizer")


def write_samples(folder: Path, samples: list[dict[str, Any]], name: str = "train.json") -> None:
    lines = "\n".join(map(json.dumps, samples)) + "\n" if name.endswith("l") else json.dumps(samples)
    (folder / name).write_text(lines)


def write_media(folder: Path) -> list[dict[str, Any]]:
    """Videos, pictures and frames of all kinds in ``media``; samples about them."""
    media = folder / "media"
    media.mkdir(parents=True)
    write_video(media / "clip.mp4", (200, 30, 30))
    write_webm(media / "clip.webm")
    shutil.copy(media / "clip.mp4", media / "clip.mov")
    write_film(media / "film.mp4")
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    for suffix in IMAGES:
        Image.fromarray(pixels).save(media / f"photo.{suffix}")
    moving = [Image.fromarray(np.roll(pixels, 3 * number, axis=1)) for number in range(4)]
    moving[0].save(media / "moving.gif", save_all=True, append_images=moving[1:], duration=100)
    (media / "frames").mkdir()
    for number in range(4):
        Image.fromarray(np.roll(pixels, 3 * number, axis=1)).save(media / f"frames/{number}.jpg")
    videos = ("clip.mp4", "clip.webm", "clip.mov", "moving.gif", "frames", "film.mp4")
    samples = [conversation("<video>\nWhat moves?", "a box.", video=name) for name in videos]
    return samples + [conversation("<image>\nWhat?", "noise.", image=f"photo.{suffix}") for suffix in IMAGES]


def write_webm(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number in range(6):
            pixels = np.full((32, 32, 3), 40 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())


def write_film(path: Path) -> None:
    """A clip of a second with a tone."""
    rate = 16000
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("libx264", rate=5), container.add_stream("aac", rate=rate, layout="mono")
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * number, np.uint8), "rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())
        tone = np.sin(np.arange(rate) * 2 * np.pi * 440 / rate).astype(np.float32)[None]
        sound = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        sound.sample_rate, sound.time_base, sound.pts = rate, Fraction(1, rate), 0
        for packet in audio.encode(sound):
            container.mux(packet)
        container.mux(audio.encode())


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        audio = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        samples = (np.sin(np.arange(16000) / 6) * 20000).astype(np.int16)[None]
        sound = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        sound.sample_rate, sound.pts = 16000, 0
        container.mux(audio.encode(sound))
        container.mux(audio.encode())


def write_features(folder: Path) -> list[str]:
    """One array in each form in which features are published; the names of the files."""
    folder.mkdir(parents=True)
    values = np.random.default_rng(0).standard_normal((20, 24)).astype(np.float32)
    np.save(folder / "a.npy", values)
    torch.save(torch.from_numpy(values), folder / "b.pt")
    (folder / "c.pkl").write_bytes(pickle.dumps(values))
    (folder / "d.pkl").write_bytes(pickle.dumps(values, protocol=2))
    save_file({"features": torch.from_numpy(values)}, folder / "e.safetensors")
    np.save(folder / "f.npy", values.astype(np.float16))
    return sorted(path.name for path in folder.iterdir())


def native(folder: Path) -> None:
    """A checkpoint of ours, with one file of weights."""
    write_checkpoint(folder / "model")
    (folder / "model/recipe.yaml").unlink()


def sharded(folder: Path) -> None:
    """The same in three files and an index."""
    native(folder)
    state = load_file(folder / "model/model.safetensors")
    names, places = sorted(state), {}
    for number in range(3):
        part = {name: state[name] for name in names[number::3]}
        file = f"model-{number + 1:05d}-of-00003.safetensors"
        save_file(part, folder / "model" / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(one.nbytes for one in state.values())}, "weight_map": places}
    (folder / "model/model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model/model.safetensors").unlink()


def official(folder: Path) -> None:
    """The published form, with weights as a pickle."""
    write_checkpoint(folder / "native")
    assert run(["convert", str(folder / "native"), str(folder / "model"), "--to", "official"]) == 0
    state = load_file(folder / "model/model.safetensors")
    torch.save(state, folder / "model/pytorch_model.bin")
    (folder / "model/model.safetensors").unlink()
    shutil.rmtree(folder / "native")


def question_set(folder: Path) -> Path:
    """A small set of questions with answers, in the published layout."""
    place = folder / "GPT_Zero_Shot_QA/MSVD_Zero_Shot_QA"
    (place / "videos").mkdir(parents=True)
    for name, colour in (("dark", (10, 10, 10)), ("light", (220, 220, 220))):
        write_video(place / f"videos/{name}.mp4", colour)
    questions = [{"video_name": name, "question": "How is it?", "question_id": name} for name in ("dark", "light")]
    (place / "test_q.json").write_text(json.dumps(questions))
    (place / "test_a.json").write_text(json.dumps([{"answer": name} for name in ("dark", "light")]))
    return place


def forms_of_annotations(folder: Path) -> list[str]:
    """The same conversations in the forms of other trainers, in the folder ``forms``; the names of the files."""
    samples = write_media(folder)
    write_samples(folder, [*samples[:2], samples[-1], conversation("Hello.", "hello.")])
    place = folder / "forms"
    place.mkdir()
    for name in ("table.csv", "table.tsv", "lists.jsonl"):
        assert run(["data", "convert", str(folder / "train.json"), str(place / name)]) == 0
    lists = [json.loads(line) for line in (place / "lists.jsonl").read_text().splitlines()]
    write_samples(place, [{**one, "system": "Be brief."} for one in lists], "lists.json")
    turns = [{"role": "user", "content": "<video>\nWhat?"}, {"role": "assistant", "content": "a box."}]
    sides = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "a box."}]
    both = [{"human": "Where?", "assistant": "here."}]
    write_samples(
        place,
        [{"video": "clip.mp4", "conversations": turns}, {"id": 7, "messages": sides}, {"conversation": both}],
        "sharegpt.json",
    )
    part = {"type": "video_url", "video_url": {"url": "clip.mp4", "start": 0.1, "end": 0.4}}
    asked = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [part, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a box."}]},
    ]
    write_samples(place, [{"id": "a", "messages": asked}, {"messages": asked[:1] + turns[1:]}], "parts.jsonl")
    write_samples(
        place,
        [
            {"instruction": "What?", "input": "Look.", "output": "a box.", "videos": ["clip.mp4"]},
            {"query": "What?", "response": "a box.", "history": [["Who?", "me."]], "images": [{"path": "photo.jpg"}]},
        ],
        "queries.jsonl",
    )
    return sorted(path.name for path in place.iterdir())


def low_rank(folder: Path, **parts: Any) -> None:
    """The result of a stage with adapters, in the folder ``bundle``.

    Args:
        parts: of the recipe, in the place of those that are drawn.
    """
    write_samples(folder, [conversation("<video>\nWhat?", "a box.", video="clip.mp4")])
    (folder / "media").mkdir()
    write_video(folder / "media/clip.mp4", (200, 30, 30))
    adapted = {"language_model": {"learning_rate": 1e-2, "lora": {"rank": 2, "alpha": 4}}, "connectors": 1e-3}
    write_recipe(folder, system={**SYSTEM, **parts}, train=adapted, max_steps=1, global_batch_size=1)
    assert run(["train", "recipe.yaml", "--out", "run", "--quiet", "--device", "cpu"]) == 0
    (folder / "run/align/final").rename(folder / "bundle")
    shutil.rmtree(folder / "run")


def published_low_rank(folder: Path) -> None:
    """The same in the published form, in the folder ``lora``; it stands on the language model in ``base``."""
    write_recipe(folder)
    model = build_model(load_recipe(folder / "recipe.yaml"))
    model.language_model.save_pretrained(folder / "base")
    shutil.copytree(folder / "tokenizer", folder / "base", dirs_exist_ok=True)
    for name, tower in model.towers.items():
        (folder / name).mkdir()
        weights = {f"vision_model.{key}": value for key, value in tower.state_dict().items()}
        save_file(weights, folder / name / "model.safetensors")
        sizes = {**TOWER, "patch_size": 14, "hidden_act": "gelu", "add_time_attn": name == "video", "num_frames": 4}
        (folder / name / "config.json").write_text(json.dumps({"vision_config": sizes}))
    low_rank(folder, language_model="base", towers={name: name for name in model.towers})
    assert run(["convert", "bundle", "lora", "--to", "official_lora"]) == 0


def own_test_set(folder: Path) -> None:
    """A test set of one's own in one file, and answers of another model in another."""
    write_media(folder)
    native(folder)
    lines = [
        {"id": "film", "video": "film.mp4", "question": "Which?", "options": ["A. red", "B. blue"], "answer": "B"},
        {"id": "clip", "video": "clip.webm", "start": 0.1, "end": 0.4, "question": "What?", "answers": ["a box", "it"]},
        {"id": "frames", "video": "frames", "frame_rate": 2, "question": "What?", "answer": 3, "type": "count"},
    ]
    write_samples(folder, lines, "mine.jsonl")
    write_samples(
        folder,
        [{"id": "film", "answer": "B"}, {"id": "clip", "pred": "a box"}, {"id": "frames", "answer": "3"}],
        "gpt.jsonl",
    )


def misplaced(folder: Path) -> None:
    """Files of all kinds that are no checkpoint."""
    write_media(folder)
    write_features(folder / "media/arrays")
    for path in (folder / "media/arrays").iterdir():
        path.rename(folder / "media" / path.name)
    native(folder)
    for path in (folder / "model").iterdir():
        path.rename(folder / "media" / path.name)
    shutil.rmtree(folder / "model")
    write_samples(folder, [{"video": "media/clip.mp4", "question": "What?", "answer": "a box"}], "mine.jsonl")
