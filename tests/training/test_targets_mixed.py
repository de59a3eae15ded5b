"""Training on targets beside videos, pictures and text: stopped and resumed, and on two processes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from launched import Launcher, largest_difference
from training_world import COLOURS, LANGUAGE_MODEL, conversation

from vidtune.checkpoints.load import load_checkpoint
from vidtune.checkpoints.write import left_out, save_checkpoint, writable_formats
from vidtune.planning.plan import share
from vidtune.recipe.types import Recipe
from vidtune.training.run import train_stages
from vidtune.training.setup.stage import set_up
from vidtune.training.signals import TrainingInterrupted

SYSTEM = "artemis"
TOWER = {
    **{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"image_size": 28, "patch_size": 7, "pooled_frames": 6},
}
REGION = {"num_levels": 2, "rounds": 1, "groups": 4, "roi_size": 4, "inner_size": 16, "position_size": 8}
LORA = {"learning_rate": 1e-2, "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}


def referring(colour: str) -> dict[str, Any]:
    boxes = [[2 * number, 8, 2 * number + 8, 24] for number in range(6)]
    track = {"frame_path": f"{colour}.mp4", "frame_id": list(range(6)), "track_list": boxes}
    return {**track, "key_frame_id": 1, "key_frame_box": boxes[1], "caption": f"{colour} moves."}


@pytest.fixture(scope="module")
def make(tokenizer: Path, media: Path, tmp_path_factory: pytest.TempPathFactory):
    """Recipe over sources, each a list of samples in one format; ``data`` of a stage are numbers of sources."""

    def made(sources: list[list[dict[str, Any]]], stages: list[dict[str, Any]], **changes: Any) -> Recipe:
        folder, data = tmp_path_factory.mktemp("annotations"), []
        for number, samples in enumerate(sources):
            path = folder / f"{number}.json"
            path.write_text(json.dumps(samples))
            asked = {"format": "referring"} if "caption" in samples[0] else {}
            data.append({"annotations": str(path), "media": str(media), **asked})
        common = {"global_batch_size": 4, "log_every": 1, "workers": 0, "warmup": 0.0, **changes}
        return Recipe.model_validate(
            {
                "system": SYSTEM,
                "language_model": LANGUAGE_MODEL,
                "tokenizer": str(tokenizer),
                "towers": {"clip": TOWER},
                "connectors": {"region": REGION},
                "stages": [{**common, **stage, "data": [data[number] for number in stage["data"]]} for stage in stages],
            }
        )

    return made


@pytest.fixture(scope="module")
def mixed(make) -> Recipe:
    others = [
        conversation("<video>\nWhat moves?", "a box.", video="red.mp4"),
        conversation("<image>\nWhich colour?", "blue.", image="blue.png"),
        conversation("Say hello.", "hello."),
    ]
    tune = {"name": "tune", "data": [1], "train": {"language_model": 1e-2, "connectors.visual": 1e-2}, "max_steps": 1}
    refer = {"name": "refer", "data": [0, 1], "train": {"connectors": 1e-2, "language_model": LORA}, "max_steps": 2}
    return make([[referring(colour) for colour in COLOURS], others], [tune, {**refer, "from": "tune"}])


@pytest.fixture(scope="module")
def whole(mixed: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    return train_stages(mixed, out, progress=False)


def test_stopped_and_resumed_is_never_stopped_to_the_last_bit(mixed: Recipe, whole: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(TrainingInterrupted):
            train_stages(mixed, tmp_path / "out", progress=False, stop_after=1)
    again = train_stages(mixed, tmp_path / "out", progress=False, stop_after=1)
    assert largest_difference(again, whole) == 0


def test_the_adapter_is_a_published_run_on_the_published_second_stage(whole: Path, tmp_path: Path) -> None:
    trained = load_checkpoint(whole)
    save_checkpoint(trained, tmp_path / "run", "official_lora")
    save_checkpoint(load_checkpoint(whole.parents[1] / "tune/final"), tmp_path / "stage2", "official_stage2")
    assert left_out(trained, "official_stage2") == ["connectors.region"]
    assert {"official", "vidtune"} <= {name for name in writable_formats(trained) if not left_out(trained, name)}
    ours = trained.model.state_dict()
    for base in (tmp_path / "stage2", whole.parents[1] / "tune/final"):
        theirs = load_checkpoint(tmp_path / "run", base=str(base)).model.state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    files = {"adapter_config.json": "base_model_name_or_path", "config.json": "mm_image_tower"}
    for file, key in files.items():  # the tower was published nowhere: it is in the base
        named = json.loads((tmp_path / "run" / file).read_text())[key]
        assert Path(named).resolve() == (whole.parents[1] / "tune/final").resolve()


@pytest.mark.whole
def test_a_rank_without_targets(make, launcher: Launcher, tmp_path: Path) -> None:
    colours = list(COLOURS)[:2]
    sources = [[sample] for colour in colours for sample in (referring(colour), conversation("Say it.", f"{colour}."))]
    steps = {"order": "sequential", "global_batch_size": 2, "max_tokens_per_batch": 150, "max_steps": 2}
    stage = {"name": "refer", "data": list(range(len(sources))), "train": {"connectors": 1e-2}}
    recipe = make(sources, [stage], **steps)
    alone = train_stages(recipe, tmp_path / "alone", progress=False)
    data = set_up(recipe, 0, tmp_path / "alone").data
    shares = [share(data.plan.costs(step), 2)[1] for step in range(data.plan.total_steps)]
    packs = [data.plan.packs(step)[number] for step, own in enumerate(shares) for number in own if number is not None]
    assert packs and not any(data.table[index].media for pack in packs for index in pack)
    assert launcher.run(recipe, tmp_path / "together", 2) == [0, 0]
    assert largest_difference(alone, tmp_path / "together/refer/final") <= 1e-6
