"""Fixtures for training: media files, a tokenizer, recipes as short as they get."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from training_world import COLOURS, LANGUAGE_MODEL, TOWER, mixed_samples, write_video
from transformers import LlamaTokenizer

from vidtune.recipe.types import Recipe

# One thread: results compare bit for bit, and a busy machine does not stall tiny matrix products.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

TOKENIZER_MODEL = Path(__file__).parents[1] / "parity/fixtures/video_llava/tokenizer.model"


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


MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="session")
def make_recipe(tokenizer: Path, media: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeRecipe:
    """Recipe of one stage, or of ``stages``, over ``samples``; keyword arguments change the stage(s)."""

    def make(
        samples: list[dict[str, Any]] | None = None, stages: list[dict[str, Any]] | None = None, **changes: Any
    ) -> Recipe:
        annotations = tmp_path_factory.mktemp("annotations") / "train.json"
        annotations.write_text(json.dumps(samples or mixed_samples()))
        data = [{"annotations": str(annotations), "media": str(media)}]
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
