"""Stages over merged clips and tiles: stopped and resumed, on two processes, and asked over a shared prefix."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launched import Launcher, largest_difference
from PIL import Image
from training_world import COLOURS, conversation, write_video
from videochat_flash_fixture import byte_tokenizer

import vidtune
from vidtune.checkpoints.load import load_checkpoint
from vidtune.data.sample import MediaRef
from vidtune.generation.engine import AnswerEngine
from vidtune.generation.settings import GenerationSettings, Request
from vidtune.media.pool import MediaPool
from vidtune.models.video_lm import VideoLM
from vidtune.planning.plan import share
from vidtune.processing.batch import Batch
from vidtune.recipe.types import Recipe
from vidtune.training.packs.loading import PackLoader
from vidtune.training.run import train_stages
from vidtune.training.setup.stage import set_up
from vidtune.training.signals import TrainingInterrupted

LANGUAGE_MODEL = {
    **{"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024},
    **{"tie_word_embeddings": True, "initializer_range": 0.3},
}
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TOWERS = {
    "umt": {**SIZES, "type": "umt", "image_size": 16, "patch_size": 4},
    "internvideo2": {**SIZES, "type": "internvideo2", "image_size": 16, "patch_size": 4, "drop_path": 0.5},
}
ALL = {"towers": 1e-3, "connectors": 1e-2, "language_model": 1e-3}
LARGER = {"towers.vision": {"image_size": 24}}
VIDEO = {"num_frames": 8, "min_frames": 8, "multiple_of": 4}
PROGRAM = [
    {"after": 1, "drop": ["image", "video"], "keep": 0.75, "compact": True},
    {"after": 2, "drop": ["image", "video"], "keep": 0.25, "rule": "attention", "compact": True},
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of two and of three clips, pictures that are cut into one tile and into several, and a tokenizer."""
    root = tmp_path_factory.mktemp("moving")
    for number, (name, colour) in enumerate(COLOURS.items()):
        write_video(root / f"{name}.mp4", colour, frames=10)
        pixels = np.random.default_rng(number).integers(0, 256, (20, 16 + 12 * number, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{name}.png")
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    byte_tokenizer({name: 256 + number for number, name in enumerate(names)}).save_pretrained(root / "tokenizer")
    return root


def videos() -> list[dict[str, Any]]:
    return [conversation("<image>\nWhat moves?", f"a {name}.", video=f"{name}.mp4") for name in COLOURS]


def others() -> list[dict[str, Any]]:
    two = conversation("<image> <image>\nSame?", "no.")
    pictures = [conversation("<image>\nColour?", f"{name}.", image=f"{name}.png") for name in COLOURS]
    return [*pictures, {**two, "image": ["red.png", "blue.png"]}, conversation("Say hello.", "hello.")]


Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def make(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    def made(samples: list[dict[str, Any]], stages: list[dict[str, Any]], tower: str = "umt", **changes: Any) -> Recipe:
        annotations = tmp_path_factory.mktemp("annotations") / "train.json"
        annotations.write_text(json.dumps(samples))
        common = {
            "data": [{"annotations": str(annotations), "media": str(root)}],
            "media": {"video": VIDEO, "image": {"largest": 2}},
            **{"train": ALL, "global_batch_size": 4, "max_steps": 2, "workers": 0, "warmup": 0.0, **changes},
        }
        return Recipe.model_validate(
            {
                "system": "videochat_flash",
                "language_model": LANGUAGE_MODEL,
                "tokenizer": str(root / "tokenizer"),
                "towers": {"vision": TOWERS[tower]},
                "connectors": {"visual": {"tokens": 4}},
                "stages": [{**common, **stage} for stage in stages],
            }
        )

    return made


FROZEN = {"towers": 1e-3, "connectors": 1e-2}
STAGES = [{"name": "short"}, {"name": "larger", "train": FROZEN, "sizes": LARGER}]


@pytest.fixture(scope="module")
def recipe(make: Make) -> Recipe:
    return make([*videos(), *others()], STAGES)


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_stages(recipe, tmp_path_factory.mktemp("whole"), progress=False)


def stopped_after_every_step(recipe: Recipe, out: Path) -> Path:
    for _ in range(3):
        with pytest.raises(TrainingInterrupted):
            train_stages(recipe, out, progress=False, stop_after=1)
    return train_stages(recipe, out, progress=False, stop_after=1)


def test_stopped_and_resumed_is_never_stopped_to_the_last_bit(recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    assert largest_difference(stopped_after_every_step(recipe, tmp_path), whole) == 0
    short, larger = (load_checkpoint(path).model for path in (whole.parents[1] / "short/final", whole))
    assert larger.config.tower("vision").image_size == 24
    before, after = (dict(model.named_parameters()) for model in (short, larger))
    changed = {name.split(".")[0] for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed == {"towers", "connectors"}


@pytest.mark.whole
def test_the_other_tower_resumes_to_the_last_bit_with_skipped_branches_and_resized_positions(make, tmp_path) -> None:
    recipe = make([*videos(), *others()], STAGES, "internvideo2")
    alone = train_stages(recipe, tmp_path / "whole", progress=False)
    assert largest_difference(stopped_after_every_step(recipe, tmp_path / "parts"), alone) == 0


def media_of_ranks(recipe: Recipe, out: Path) -> list[set[str]]:
    """Streams of the media of each of two ranks."""
    data = set_up(recipe, 0, out).data
    found: list[set[str]] = [set(), set()]
    for step in range(data.plan.total_steps):
        for rank, own in enumerate(share(data.plan.costs(step), 2)):
            packs = [data.plan.packs(step)[number] for number in own if number is not None]
            found[rank] |= {slot.stream for pack in packs for index in pack for slot in data.table[index].media}
    return found


@pytest.mark.whole
@pytest.mark.parametrize("tower", ["umt", "internvideo2"])
def test_a_rank_without_media(tower: str, make: Make, launcher: Launcher, tmp_path: Path) -> None:
    text = conversation("Say it.", "a red square.")
    samples = [sample for seen in (videos()[0], others()[4]) for sample in (seen, text)]
    steps = {"order": "sequential", "global_batch_size": 2, "max_tokens_per_batch": 260}
    recipe = make(samples, [{"name": "short"}], tower, **steps)
    alone = train_stages(recipe, tmp_path / "alone", progress=False)
    assert sorted(map(len, media_of_ranks(recipe, tmp_path / "alone"))) == [0, 2]
    assert launcher.run(recipe, tmp_path / "together", 2) == [0, 0]
    assert largest_difference(alone, tmp_path / "together/short/final") <= 1e-6


@pytest.mark.whole
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_ranks_equal_one_process_over_both_stages(parallel, make, whole, launcher, tmp_path) -> None:
    recipe = make([*videos(), *others()], STAGES, parallel=parallel)
    assert launcher.run(recipe, tmp_path / "together", 2) == [0, 0]
    assert largest_difference(whole, tmp_path / "together/larger/final") <= 2e-5


QUESTIONS = ("What moves?", "Which colour is it, and where does it go?", "Why?")
ASKED = {
    "videos": [("video", "red.mp4"), ("video", "blue.mp4")],
    "tiles": [("image", "white.png")],
    "two pictures": [("image", "red.png"), ("image", "blue.png")],
    "both": [("video", "red.mp4"), ("image", "green.png")],
}


@pytest.mark.parametrize("program", [[], PROGRAM], ids=["plain", "dropping"])
def test_questions_on_a_shared_prefix_get_the_answers_that_they_get_alone(program, whole: Path, root: Path) -> None:
    model = vidtune.load(whole, dtype="float32", layer_program=program)
    requests = [
        Request(f"{name}: {text}", tuple(MediaRef(stream, str(root / file)) for stream, file in media), text)
        for name, media in ASKED.items()
        for text in QUESTIONS
    ]
    found = []
    for share_prefix in (True, False):
        engine = AnswerEngine(
            model.network,
            model.processor,
            GenerationSettings(max_new_tokens=8),
            prompt="qwen_2_chat",
            workers=0,
            share_prefix=share_prefix,
        )
        with engine:
            answers = {answer.id: answer for answer in engine.answer(requests)}
        assert not [answer.error for answer in answers.values() if answer.error]
        found.append({name: answer.token_ids for name, answer in answers.items()})
    assert found[0] == found[1]
    assert len({tuple(tokens) for tokens in found[0].values()}) > len(ASKED)


def test_an_empty_layer_program_and_one_that_drops_nothing_are_none_to_the_last_bit(recipe, whole, tmp_path) -> None:
    setup = set_up(recipe, 0, tmp_path)
    with MediaPool(0, None) as pool:
        batch = next(iter(PackLoader(setup.plan, setup.example, setup.processor.preprocessing, pool))).batch
    assert batch is not None and {"image", "video"} == set(batch.media)
    without, model = (load_checkpoint(whole.parents[1] / "short/final").model for _ in range(2))
    wanted = passed(without, batch)
    keep_all = [{**step, "keep": 1.0} for step in PROGRAM]
    for program, same in ((PROGRAM, False), ([], True), (keep_all, True)):
        model.use_layer_program(program)
        found = passed(model, batch)
        assert all(torch.equal(*both) for both in zip(found, wanted, strict=True)) == same


def passed(model: VideoLM, batch: Batch) -> list[torch.Tensor]:
    """Loss, gradients, and logits in evaluation mode."""
    model.train().zero_grad(set_to_none=True)
    torch.manual_seed(0)
    loss = model.loss_sum(batch)
    loss.backward()
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    with torch.no_grad():
        return [loss.detach(), *gradients, model.eval()(batch.input_ids, media=batch.media).logits]
