"""A stage about targets, from files in the tree of the published manual to trained weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_targets import REGION, TOWER
from training_world import LANGUAGE_MODEL, write_video

from vidtune.errors import UserError
from vidtune.features.towers import named_extraction
from vidtune.media.pool import MediaPool
from vidtune.recipe.types import Recipe
from vidtune.training.inspection.data_check import check_recipe_data
from vidtune.training.packs.loading import PackLoader
from vidtune.training.run import train_stages
from vidtune.training.setup.stage import set_up

NAMES = [f"{number:04d}.png" for number in range(12)]


def target(folder: str, **changes: Any) -> dict[str, Any]:
    boxes = [[number, 4, number + 9.5, 20] for number in range(len(NAMES))]
    asked = {"key_frame_id": NAMES[3], "key_frame_box": [3, 4, 12, 20], "question": "What is the <bbox>doing?"}
    return {"frame_path": folder, "frame_id": NAMES, "track_list": boxes, **asked, "caption": "it moves.", **changes}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``DATA_ROOT`` of the manual, with two of its sources, and a video file."""
    root = tmp_path_factory.mktemp("DATA_ROOT")
    frames = {"a": root / "Artemis_data/HC-STVG/frames/01", "b": root / "Artemis_data/GOT-10k/data/full_data/train/G1"}
    for folder in frames.values():
        folder.mkdir(parents=True)
        for number, name in enumerate(NAMES):
            pixels = np.random.default_rng(number).integers(0, 256, (24, 36, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name)
    write_video(root / "Artemis_data/clip.mp4", (200, 30, 30))
    stored = root / "Artemis_data/HC-STVG/clip_feature/01.pkl"
    stored.parent.mkdir()
    tokens = TOWER["pooled_frames"] + (TOWER["image_size"] // TOWER["patch_size"]) ** 2
    values = np.random.default_rng(0).standard_normal((tokens, TOWER["hidden_size"]))
    values.astype(np.float16).dump(stored)
    first, second = "HC-STVG/frames/01", "GOT-10k/data/full_data/train/G1"
    numbered = {"frame_id": [0, 2, 5], "track_list": [[0, 0, 9, 9], [], [1, 1, 9, 9]], "key_frame_id": 4}
    files = {
        "hc_stvg.json": [
            target(first, clip_path="HC-STVG/clip_feature/01.pkl"),
            target(first, clip_path="HC-STVG/clip_feature/01.pkl", key_frame_id=NAMES[0], key_frame_box=[9, 9, 3, 20]),
            target(first, clip_path="HC-STVG/clip_feature/01.pkl", key_frame_id="", key_frame_box=None),
        ],
        "got_10k.json": [
            target(second),
            target(second, frame_id=NAMES[:3], track_list=[[], [1, 2, 9, 9], []], question=None),
            target(second, track_list=[[]] * len(NAMES)),
            target("clip.mp4", **numbered, key_frame_box=[-3, -3, 9, 40]),
        ],
    }
    (root / "referring").mkdir()
    for name, samples in files.items():
        (root / "referring" / name).write_text(json.dumps(samples))
    return root


@pytest.fixture
def recipe(root: Path, tokenizer: Path) -> Recipe:
    data = {"annotations": str(root / "referring"), "media": str(root / "Artemis_data"), "format": "referring"}
    return Recipe.model_validate(
        {
            "system": "artemis",
            "language_model": LANGUAGE_MODEL,
            "tokenizer": str(tokenizer),
            "towers": {"clip": TOWER},
            "connectors": {"region": {**REGION, "image_size": 32}},
            "stages": [
                {
                    "name": "refer",
                    "data": [data],
                    "train": {"connectors": 1e-2},
                    "global_batch_size": 3,
                    "max_steps": 2,
                    "workers": 0,
                }
            ],
        }
    )


@pytest.mark.parametrize("stream", ["box", "track"])
def test_stored_features_do_not_stand_in_for_boxes(recipe: Recipe, root: Path, stream: str, tmp_path: Path) -> None:
    settings = recipe.model_dump(exclude_unset=True)
    settings["stages"][0]["data"][0]["features"] = {stream: str(root)}
    with pytest.raises(UserError, match=f"features cannot stand in for the files of the stream '{stream}'"):
        set_up(Recipe.model_validate(settings), 0, tmp_path)
    with pytest.raises(UserError, match=f"--tower artemis:{stream}: its preprocessing is random"):
        named_extraction([f"artemis:{stream}=nowhere"], tmp_path, "float32", torch.device("cpu"))


@pytest.mark.whole
def test_the_check_names_the_wrong_box_alone(recipe: Recipe) -> None:
    ((_, report),) = check_recipe_data(recipe, decode=True)
    assert [(found.id, found.reason, found.excluded) for found in report.findings] == [("hc_stvg:1", "wrong box", True)]
    assert report.num_samples == 7


def test_boxes_are_drawn_anew_in_every_epoch_and_again_the_same(recipe: Recipe, tmp_path: Path) -> None:
    setup = set_up(recipe, 0, tmp_path)
    seeds = [[slot.seed for slot in setup.example(0, epoch).media] for epoch in (0, 1)]
    assert None not in seeds[0] and not set(seeds[0]) & set(seeds[1])

    def loaded(step: int) -> dict[tuple[str, str], list[torch.Tensor]]:
        with MediaPool(0, None) as pool:
            packs = PackLoader(setup.plan, setup.example, setup.processor.preprocessing, pool, first_step=step)
            found = next(iter(packs))
        items = {stream: iter(found.batch.media[stream]) for stream in found.batch.media}
        slots = [(example.id, slot.stream) for example in found.examples for slot in example.media]
        read = {(id_, stream): next(items[stream]) for id_, stream in slots}
        return {key: [item.values, *item.extras.values()] for key, item in read.items()}

    first, again = loaded(0), loaded(0)
    assert all(torch.equal(*both) for key in first for both in zip(first[key], again[key], strict=True))
    assert {stream for _, stream in first} == {"video", "box", "track"}
    for (_, stream), values in first.items():
        if stream != "video":
            boxes, draw = values[1:]
            assert boxes.shape == (8 if stream == "track" else 1, 4) and draw.shape == boxes.shape[:1]


def test_a_stage_about_targets_trains(recipe: Recipe, tmp_path: Path) -> None:
    final = train_stages(recipe, tmp_path, progress=False)
    assert (final / "model.safetensors").is_file()
    lines = [json.loads(line) for line in (tmp_path / "refer/excluded.jsonl").read_text().splitlines()]
    assert [(line["id"], line["detail"]) for line in lines] == [
        ("hc_stvg:1", "key_frame_box has reversed corners (9, 9, 3, 20); expected left, top, right, bottom")
    ]
