"""Loading opens every file of a checkpoint once, whatever its kind, and leaves no file open.

Exempt are the files of a tokenizer, which transformers' own loader reads as often as it likes.
"""

import json
from pathlib import Path

import pytest
import torch
from opened_files import opened_files
from tiny_models import TOWER, tiny_model
from written_files import WRITTEN, unpack

from vidtune.checkpoints.build import build_config, build_model, tower_of_recipe
from vidtune.checkpoints.files.tensors import INDEX_NAMES, write_state
from vidtune.checkpoints.load import load_checkpoint
from vidtune.checkpoints.write import export_state, save_checkpoint
from vidtune.models.video_lm import VideoLM
from vidtune.recipe.types import Recipe
from vidtune.registry import SYSTEMS

OF_TOKENIZERS = {
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
}
LOADS = json.loads((WRITTEN / "expected.json").read_text())["logits"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("opened") / "first")


def assert_each_once(opened, *needed: str) -> None:
    counts = {name: times for name, times in opened.items() if Path(name).name not in OF_TOKENIZERS}
    assert {name: times for name, times in counts.items() if times > 1} == {}
    for name in needed:
        assert name in counts, f"{name} was not seen: the test would prove nothing"


@pytest.mark.parametrize("name", LOADS)
def test_every_file_is_opened_once(name: str, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(written)
    about = LOADS[name]
    with opened_files(written) as opened:
        load_checkpoint(about["checkpoint"], base=about["base"], towers=about["towers"])
    assert_each_once(opened, *([] if about["checkpoint"].endswith(".bin") else [f"{about['checkpoint']}/config.json"]))
    assert any(place.endswith((".safetensors", ".bin")) for place in opened)


def test_every_shard_and_its_index_are_opened_once(written: Path, tmp_path: Path) -> None:
    model = load_checkpoint(written / "checkpoints/video_llava")
    save_checkpoint(model, tmp_path / "out", "official")
    (tmp_path / "out/model.safetensors").unlink()
    form = next(form for form in SYSTEMS["video_llava"].publication.formats if form.name == "official")
    write_state(export_state(model.model, form), tmp_path / "out", shard_bytes=5_000)
    shards = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 2
    with opened_files(tmp_path / "out") as opened:
        again = load_checkpoint(tmp_path / "out").model.state_dict()
    assert_each_once(opened, INDEX_NAMES[0], "config.json", *shards)
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.model.state_dict().items())


def test_files_of_the_transformers_format_are_opened_once(written: Path, tmp_path: Path) -> None:
    text = tiny_model().config.text_config
    config = SYSTEMS["video_llava"].architecture.build_config(
        text, {"image": TOWER, "video": {**TOWER, "temporal_attention": False}}, {}
    )
    form = next(form for form in SYSTEMS["video_llava"].publication.formats if form.name == "transformers")
    model = VideoLM(config)
    write_state({str(form.keys.to_theirs(name)): tensor for name, tensor in model.state_dict().items()}, tmp_path)
    vision = {"model_type": "clip_vision_model", **{key: value for key, value in TOWER.items() if key != "hidden_act"}}
    theirs = {"model_type": "video_llava", "vision_config": vision, "text_config": text.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(theirs))
    with opened_files(tmp_path) as opened:
        loaded = load_checkpoint(tmp_path, tokenizer=str(written / "parts/llm"))
    assert loaded.report.format == "transformers"
    assert_each_once(opened, "config.json", "model.safetensors")


def parts_of(written: Path) -> Recipe:
    towers = {"vision": "ViT-L-14.pt", "audio": "BEATs.pt", "speech": "whisper"}
    return Recipe(
        system="longvale",
        language_model=str(written / "parts/llm"),
        towers={name: str(written / "parts" / place) for name, place in towers.items()},
        connectors={"visual": str(written / "published/longvale/projector/mm_projector.bin")},
        lora_runs=(str(written / "published/longvale/perceive"), str(written / "published/longvale/instruct")),
    )


def test_parts_of_a_recipe_are_opened_once(written: Path) -> None:
    with opened_files(written) as opened:
        build_model(parts_of(written))
    assert_each_once(opened, "parts/ViT-L-14.pt", "parts/BEATs.pt", "parts/llm/model.safetensors")


def test_the_config_of_a_recipe_opens_no_language_model(written: Path) -> None:
    with opened_files(written) as opened:
        build_config(parts_of(written))
    assert_each_once(opened, "parts/ViT-L-14.pt", "parts/llm/config.json")
    assert not [name for name in opened if name.endswith(".safetensors")]


def test_a_tower_alone_opens_nothing_else(written: Path) -> None:
    recipe = parts_of(written)
    config = build_config(recipe)
    with opened_files(written) as opened:
        tower_of_recipe(recipe, "audio", config)
    assert opened == {"parts/BEATs.pt": 1}
