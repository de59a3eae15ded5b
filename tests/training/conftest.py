"""A tiny world for training: real mp4 and png files, a model of a few thousand weights, recipes as short as they get."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from transformers import LlamaTokenizer

from vidtune.recipe import Recipe

TOKENIZER_MODEL = Path(__file__).parents[1] / "parity/fixtures/video_llava/tokenizer.model"
TOWER = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 28}
LANGUAGE_MODEL = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "white": (230, 230, 230)}


def write_video(path: Path, colour: tuple[int, int, int], frames: int = 6, side: int = 32) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            pixels = np.full((side, side, 3), 20, np.uint8)
            pixels[8:24, 2 * number : 2 * number + 8] = colour
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())


def conversation(question: str, answer: str, **media: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {**media, "conversations": turns}


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    shutil.copy(TOKENIZER_MODEL, folder / "tokenizer.model")
    LlamaTokenizer.from_pretrained(str(folder)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``<colour>.mp4`` and ``<colour>.png`` for every colour."""
    folder = tmp_path_factory.mktemp("media")
    for name, colour in COLOURS.items():
        write_video(folder / f"{name}.mp4", colour)
        Image.fromarray(np.full((20, 30, 3), colour, np.uint8)).save(folder / f"{name}.png")
    return folder


def mixed_samples() -> list[dict[str, Any]]:
    """Eleven samples: videos, images, one with both, text only."""
    videos = [conversation("<video>\nWhat moves?", f"a {c} box.", video=f"{c}.mp4") for c in COLOURS]
    images = [conversation("<image>\nWhich colour?", f"{c}.", image=f"{c}.png") for c in COLOURS]
    both = [conversation("<video>\n<image>\nSame colour?", "no.", video="red.mp4", image="blue.png")]
    return videos + images + both + [conversation("Say hello.", "hello."), conversation("Count to two.", "one two.")]


@pytest.fixture
def annotations(tmp_path: Path) -> Callable[[list[dict[str, Any]]], Path]:
    """Writes an annotation file and returns its path."""

    def write(samples: list[dict[str, Any]], name: str = "train.json") -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(samples))
        return path

    return write


MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def make_recipe(tokenizer: Path, media: Path, annotations: Callable[[list[dict[str, Any]]], Path]) -> MakeRecipe:
    """Recipe of one stage, or of ``stages``; keyword arguments change the stage(s)."""

    def make(
        samples: list[dict[str, Any]] | None = None, stages: list[dict[str, Any]] | None = None, **changes: Any
    ) -> Recipe:
        data = [{"annotations": str(annotations(samples or mixed_samples())), "media": str(media)}]
        common = {
            "name": "align",
            "data": data,
            "train": {"connectors": 1e-2},
            "global_batch_size": 4,
            "workers": 1,
            "log_every": 1,
            **changes,
        }
        return Recipe.model_validate(
            {
                "system": "video_llava",
                "language_model": LANGUAGE_MODEL,
                "tokenizer": str(tokenizer),
                "towers": {
                    "image": {**TOWER, "patch_size": 14},
                    "video": {**TOWER, "patch_size": 14, "num_frames": 4},
                },
                "stages": [{**common, **stage} for stage in stages or [{}]],
            }
        )

    return make
