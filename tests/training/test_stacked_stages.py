"""Three stages, each on what the one before it left: a projector, a LoRA run, and a LoRA run on that one merged.

The towers are absent: all that is trained on is stored features. What the stages leave is written as published runs
are, read again as a stack, and trained on from there.
"""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from training_world import LANGUAGE_MODEL
from transformers import AutoConfig, AutoModelForCausalLM

from vidtune.checkpoints.build import build_model
from vidtune.checkpoints.files.folder import CheckpointFiles
from vidtune.checkpoints.load import load_checkpoint
from vidtune.checkpoints.lora.adapter_files import read_adapter
from vidtune.checkpoints.write import save_checkpoint
from vidtune.errors import UserError
from vidtune.models.video_lm import VideoLM
from vidtune.processing.tokenizer import load_tokenizer
from vidtune.recipe.types import Recipe
from vidtune.training.inspection.dry_run import forecast
from vidtune.training.run import train_stages as train

WIDTHS = {"video": (100, 768), "audio": (3, 768), "speech": (5, 1280)}
CAPTIONS = ("a red box.", "a blue box.", "nothing.")
LORA = {"learning_rate": 1e-2, "lora": {"rank": 4, "alpha": 8}}
ADAPTED = {"language_model": LORA, "connectors.audio": 1e-2, "connectors.speech": 1e-2}


class Published(NamedTuple):
    language_model: Path
    pictures: dict[str, Any]
    videos: dict[str, Any]


@pytest.fixture(scope="module")
def published(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A language model, and annotations with folders of features; some videos have no sound, one has no features."""
    root, rng = tmp_path_factory.mktemp("published"), np.random.default_rng(0)
    torch.manual_seed(0)
    text = AutoConfig.for_model(**LANGUAGE_MODEL, vocab_size=len(load_tokenizer(tokenizer)))
    AutoModelForCausalLM.from_config(text).save_pretrained(root / "llm")
    shutil.copytree(tokenizer, root / "llm", dirs_exist_ok=True)
    for stream in (*WIDTHS, "image"):
        (root / stream).mkdir()
    pictures, videos = [], []
    for number, caption in enumerate(CAPTIONS):
        np.save(root / f"image/p{number}.npy", rng.standard_normal(768).astype(np.float16))
        turns = [{"from": "human", "value": "Describe. <image>"}, {"from": "gpt", "value": caption}]
        pictures.append({"id": f"p{number}", "image": f"p{number}.jpg", "conversations": turns})
    for number in range(6):
        streams = [s for s in WIDTHS if not (s == "audio" and number % 3 == 1) and not (s == "speech" and number > 3)]
        for stream in streams if number < 5 else ():
            values = rng.standard_normal(WIDTHS[stream]).astype(np.float16 if stream == "video" else np.float32)
            np.save(root / stream / f"v{number}.npy", values)
        turns = [
            {"from": "human", "value": "<video>\nWhat happened from <s0> to <e0>?"},
            {"from": "gpt", "value": CAPTIONS[number % 3]},
        ]
        meta = {"duration": 40.0, "token": {"<s0>": 4.0, "<e0>": 20.0 + number}}
        videos.append({"id": f"v{number}", "source": "made", "conversations": turns, "meta": meta})
    for name, samples in (("pictures", pictures), ("videos", videos)):
        (root / f"{name}.json").write_text(json.dumps(samples))
    return Published(
        root / "llm",
        {"annotations": str(root / "pictures.json"), "features": {"image": str(root / "image")}},
        {"annotations": str(root / "videos.json"), "features": {stream: str(root / stream) for stream in WIDTHS}},
    )


def recipe(published: Published, *stages: dict[str, Any], **parts: Any) -> Recipe:
    common = {"global_batch_size": 2, "workers": 0, "warmup": 0.0, "max_steps": 2, "max_excluded": 0.5}
    return Recipe.model_validate(
        {
            "system": "longvale",
            "language_model": str(published.language_model),
            "stages": [{**common, **stage} for stage in stages],
            **parts,
        }
    )


def stage_one(published: Published) -> dict[str, Any]:
    train = {"connectors.visual": 1e-2}
    return {"name": "projector", "prompt": "plain", "train": train, "data": [published.pictures]}


def lora_stage(published: Published, name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "prompt": "v1", "train": ADAPTED, "data": [published.videos], **changes}


@pytest.fixture(scope="module")
def run(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of all three stages."""
    out = tmp_path_factory.mktemp("run") / "out"
    stages = [stage_one(published), lora_stage(published, "perceive"), lora_stage(published, "instruct")]
    train(recipe(published, *stages), out, progress=False)
    return out


def final(run: Path, stage: str) -> Path:
    return run / stage / "final"


def weight(model: VideoLM, layer: str) -> torch.Tensor:
    return model.language_model.get_parameter(layer + ".weight").detach()


def test_model_in_training_holds_no_tower(published: Published, run: Path) -> None:
    model = load_checkpoint(final(run, "instruct")).model
    assert set(model.config.absent_towers) == {"vision", "audio", "speech"}
    assert not any(name.startswith("towers.") for name, _ in model.named_parameters())


def test_every_adapter_is_merged_before_the_next_one_learns(published: Published, run: Path) -> None:
    start = build_model(recipe(published, stage_one(published)))
    end = load_checkpoint(final(run, "instruct")).model
    factors = [read_adapter(CheckpointFiles(final(run, stage))) for stage in ("perceive", "instruct")]
    for layer, (down, up) in factors[0].factors.items():
        second_down, second_up = factors[1].factors[layer]
        assert not torch.equal(down, second_down)
        wanted = weight(start, layer) + 2.0 * (up @ down) + 2.0 * (second_up @ second_down)
        torch.testing.assert_close(weight(end, layer), wanted, atol=1e-6, rtol=0)
        assert float((up @ down).abs().max()) > 1e-4 and float((second_up @ second_down).abs().max()) > 1e-4


def test_connectors_are_those_of_the_last_stage_that_trained_them(run: Path) -> None:
    one, two, three = (
        load_checkpoint(final(run, stage)).model.state_dict() for stage in ("projector", "perceive", "instruct")
    )
    for name in (name for name in three if name.startswith("connectors.")):
        frozen = name.startswith("connectors.visual.")
        assert torch.equal(two[name], one[name]) == frozen
        assert torch.equal(three[name], two[name]) == frozen


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The three results as files of the published formats."""
    root = tmp_path_factory.mktemp("exported")
    for stage, form in (("projector", "projector"), ("perceive", "official_lora"), ("instruct", "official_lora")):
        save_checkpoint(load_checkpoint(final(run, stage)), root / stage, form)
    return {
        "projector": root / "projector/mm_projector.bin",
        "perceive": root / "perceive",
        "instruct": root / "instruct",
    }


def test_published_stack_of_the_stages_is_the_trained_model(
    published: Published, run: Path, exported: dict[str, Path]
) -> None:
    below = [published.language_model, exported["projector"], exported["perceive"]]
    ours = load_checkpoint(final(run, "instruct")).model.state_dict()
    theirs = load_checkpoint(exported["instruct"], base=[str(place) for place in below]).model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    keys = set(torch.load(exported["instruct"] / "non_lora_trainables.bin", weights_only=True))
    parts = ("audio_mm_projector", "asr_mm_projector")
    assert keys == {f"base_model.model.model.{part}.{kind}" for part in parts for kind in ("weight", "bias")}


@pytest.mark.parametrize("way", ["lora_runs", "from", "converted"])
def test_training_goes_on_from_published_runs(
    way: str, published: Published, run: Path, exported: dict[str, Path], tmp_path: Path
) -> None:
    """At a rate of nearly nothing the result is the stack; read from its bundle it is so still."""
    stack = {"connectors": {"visual": str(exported["projector"])}}
    still = {**ADAPTED, "language_model": {**LORA, "learning_rate": 1e-12}}
    still |= {"connectors.audio": 1e-12, "connectors.speech": 1e-12}
    stage = lora_stage(published, "more", train=still)
    if way == "lora_runs":
        stack["lora_runs"] = [str(exported["perceive"]), str(exported["instruct"])]
    elif way == "from":
        stack["lora_runs"] = [str(exported["perceive"])]
        stage["from"] = str(exported["instruct"])
    else:
        below = [published.language_model, exported["projector"], exported["perceive"]]
        loaded = load_checkpoint(exported["instruct"], base=[str(place) for place in below])
        save_checkpoint(loaded, tmp_path / "whole")
        stage["from"] = str(tmp_path / "whole")
    bundle = train(recipe(published, stage, **stack), tmp_path / "out", progress=False)
    wanted = load_checkpoint(final(run, "instruct")).model.state_dict()
    found = load_checkpoint(bundle).model.state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=0, msg=name)


def test_stage_that_trained_more_than_the_format_holds_is_not_exported(published: Published, tmp_path: Path) -> None:
    more = lora_stage(published, "more", train={"language_model": LORA, "connectors": 1e-2})
    bundle = train(recipe(published, more), tmp_path / "out", progress=False)
    with pytest.raises(UserError, match=r"trained 'connectors\.visual.*cannot hold; write the whole model"):
        save_checkpoint(load_checkpoint(bundle), tmp_path / "exported", "official_lora")


def test_absent_tower_cannot_be_trained(published: Published, tmp_path: Path) -> None:
    wrong = recipe(published, lora_stage(published, "tower", train={"towers.vision": 1e-3}))
    with pytest.raises(UserError, match=r"train names no component by 'towers\.vision'"):
        train(wrong, tmp_path / "out", progress=False)


@pytest.mark.parametrize("kind", ["run", "whole"])
def test_towers_named_for_a_checkpoint_without_them_are_not_ignored(
    kind: str, published: Published, run: Path, exported: dict[str, Path], tmp_path: Path
) -> None:
    stage = lora_stage(
        published, "more", **{"from": str(exported["perceive"] if kind == "run" else final(run, "projector"))}
    )
    parts = {"connectors": {"visual": str(exported["projector"])}, "towers": {"speech": "whisper-large-v2"}}
    message = (
        r"comes without the towers that the recipe names; .* OUT --tower speech=whisper-large-v2`, and start from OUT"
    )
    with pytest.raises(UserError, match=message):
        train(recipe(published, stage, **parts), tmp_path / "out", progress=False)


def test_videos_without_features_are_refused_before_training(published: Published, media: Path, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "a box."}]
    samples = [{"id": name, "video": f"{name}.mp4", "conversations": turns} for name in ("red", "blue")]
    (tmp_path / "raw.json").write_text(json.dumps(samples))
    source = {"annotations": str(tmp_path / "raw.json"), "media": str(media)}
    message = r"no sample to train on in .*raw\.json; the first: .*comes without its towers: vision \(published as"
    with pytest.raises(UserError, match=message):
        train(recipe(published, lora_stage(published, "raw", data=[source])), tmp_path / "out", progress=False)


@pytest.mark.whole
def test_forecast_counts_no_tower(published: Published, tmp_path: Path) -> None:
    (planned,) = forecast(recipe(published, lora_stage(published, "perceive")), tmp_path / "out")
    assert planned.memory is not None and planned.memory.total > 0
    with_tower = recipe(published, lora_stage(published, "perceive"), towers={"speech": {"num_hidden_layers": 1}})
    (heavier,) = forecast(with_tower, tmp_path / "heavier")
    assert heavier.memory is not None and heavier.memory.total > planned.memory.total
