import json
import logging
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TOKENIZER, TOWER, tiny_model
from transformers import LlamaTokenizer

from vidtune.checkpoints.build import build_model
from vidtune.checkpoints.fit_processor import build_processor
from vidtune.checkpoints.load import Checkpoint, load_checkpoint
from vidtune.checkpoints.report import LoadReport
from vidtune.checkpoints.write import save_checkpoint
from vidtune.errors import UserError
from vidtune.models.video_lm import VideoLM
from vidtune.recipe.types import Recipe
from vidtune.registry import SYSTEMS


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    shutil.copy(TOKENIZER, folder / "tokenizer.model")
    LlamaTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(tokenizer) -> Checkpoint:
    model = tiny_model()
    return Checkpoint(model, build_processor(model.config, tokenizer), LoadReport("memory"))


def same_weights(one, other) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("format_name", ["vidtune", "official"])
def test_written_checkpoints_load_back_equal(format_name, checkpoint, tmp_path, monkeypatch):
    save_checkpoint(checkpoint, tmp_path / "out", format_name)
    said: list[str] = []
    for name in ("modeling_utils", "distributed.tensor_parallel"):
        monkeypatch.setattr(logging.getLogger(f"transformers.{name}"), "warning", said.append)
    again = load_checkpoint(tmp_path / "out")
    assert not said
    assert again.report.format == format_name
    assert same_weights(checkpoint.model, again.model)
    assert again.model.config.streams == checkpoint.model.config.streams
    assert again.processor.streams == checkpoint.processor.streams


def test_towers_come_from_the_checkpoint_itself_without_their_sizes_in_the_config(checkpoint, tmp_path):
    """The published config.json names the towers only; head width 64 is that of the published ones."""
    save_checkpoint(checkpoint, tmp_path / "out", "official")
    config = json.loads((tmp_path / "out/config.json").read_text())
    del config["vidtune_towers"]
    (tmp_path / "out/config.json").write_text(json.dumps(config))
    towers = load_checkpoint(tmp_path / "out").model.config.towers
    for name, spec in checkpoint.model.config.towers.items():
        expected = {**spec, "num_attention_heads": 1}
        assert {key: towers[name][key] for key in expected} == expected


def test_an_existing_folder_is_not_overwritten(checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    with pytest.raises(UserError, match="exists already"):
        save_checkpoint(checkpoint, tmp_path / "out")
    assert (tmp_path / "out" / "precious").read_text() == "x"


@pytest.mark.parametrize("format_name", ["vidtune", "official"])
def test_a_users_folder_beside_the_written_one_stays(format_name, checkpoint, tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "precious").write_text("x")
    save_checkpoint(checkpoint, tmp_path / "out", format_name)
    assert (tmp_path / "out.partial" / "precious").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".", "out"))) == [
        "out",
        "out.partial",
    ]


@pytest.mark.parametrize(("change", "message"), [("drop", "1 keys missing"), ("add", "1 keys unexpected")])
def test_incomplete_official_checkpoints_are_refused(change, message, checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "out", "official")
    state = load_file(tmp_path / "out/model.safetensors")
    if change == "drop":
        del state["model.mm_projector.0.weight"]
    else:
        state["something.else"] = torch.zeros(1)
    save_file(state, tmp_path / "out/model.safetensors")
    with pytest.raises(UserError, match=message):
        load_checkpoint(tmp_path / "out")


def test_rotary_buffers_of_old_checkpoints_are_ignored_and_counted(checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "out", "official")
    state = load_file(tmp_path / "out/model.safetensors")
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    (tmp_path / "out/model.safetensors").unlink()
    torch.save(state, tmp_path / "out/pytorch_model.bin")
    assert load_checkpoint(tmp_path / "out").report.ignored == 1


def test_a_pickle_that_would_run_code_is_refused(checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "out", "official")
    (tmp_path / "out/model.safetensors").unlink()
    marker = tmp_path / "executed"

    class Attack:
        def __reduce__(self):
            return Path.touch, (marker,)

    (tmp_path / "out/pytorch_model.bin").write_bytes(pickle.dumps({"model.embed_tokens.weight": Attack()}))
    with pytest.raises(UserError, match=r"pytorch_model\.bin"):
        load_checkpoint(tmp_path / "out")
    assert not marker.exists()


def test_a_plain_language_model_is_not_taken_for_a_video_one(tmp_path):
    tiny_model().language_model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="not a checkpoint of a known system"):
        load_checkpoint(tmp_path)


@pytest.fixture
def parts(checkpoint, tmp_path) -> dict[str, Path]:
    """The model as users bring it: language model, stand-alone towers, stage-one projector file."""
    folders = {name: tmp_path / name for name in ("llm", "image", "video", "projector")}
    checkpoint.model.language_model.save_pretrained(folders["llm"])
    checkpoint.processor.tokenizer.save_pretrained(folders["llm"])
    for name in ("image", "video"):
        folders[name].mkdir()
        tower = {f"vision_model.{key}": value for key, value in checkpoint.model.towers[name].state_dict().items()}
        save_file({**tower, "logit_scale": torch.ones(1)}, folders[name] / "model.safetensors")
        vision = {**TOWER, "hidden_act": "gelu", "add_time_attn": name == "video", "num_frames": 8}
        (folders[name] / "config.json").write_text(json.dumps({"vision_config": vision}))
    save_checkpoint(checkpoint, folders["projector"], "projector")
    return folders


def test_a_recipe_assembles_published_parts(checkpoint, parts):
    recipe = Recipe(
        system="video_llava",
        language_model=str(parts["llm"]),
        towers={"image": str(parts["image"]), "video": str(parts["video"])},
        connectors={"visual": str(parts["projector"] / "mm_projector.bin")},
    )
    assert same_weights(checkpoint.model, build_model(recipe))


def test_parts_without_weights_are_drawn_from_the_seed(checkpoint, parts):
    recipe = Recipe(
        system="video_llava",
        language_model=str(parts["llm"]),
        towers={"image": str(parts["image"]), "video": str(parts["video"])},
    )
    one, two = build_model(recipe), build_model(recipe)
    assert same_weights(one, two)
    assert same_weights(checkpoint.model.towers, one.towers)
    drawn = one.connectors["visual"][0].weight
    assert drawn.isfinite().all() and 0 < drawn.abs().max() <= TOWER["hidden_size"] ** -0.5
    other = build_model(recipe.model_copy(update={"seed": 1}))
    assert not torch.equal(drawn, other.connectors["visual"][0].weight)


def test_a_projector_folder_loads_with_its_base(checkpoint, parts):
    config = {f"mm_{name}_tower": str(parts[name]) for name in ("image", "video")}
    (parts["projector"] / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="--model-base"):
        load_checkpoint(parts["projector"])
    assert same_weights(checkpoint.model, load_checkpoint(parts["projector"], base=str(parts["llm"])).model)


def test_sizes_that_contradict_each_other_are_one_line(parts):
    recipe = Recipe(system="video_llava", language_model=str(parts["llm"]), towers={"image": {"hidden_size": 64}})
    with pytest.raises(UserError, match="share one connector"):
        build_model(recipe)
    with pytest.raises(UserError, match="has no 'hiden_size'"):
        build_model(recipe.model_copy(update={"towers": {"image": {"hiden_size": 64}}}))


def test_a_model_without_attention_over_time_is_not_written_as_official(tokenizer, tmp_path):
    text = tiny_model().config.text_config
    video = {**TOWER, "temporal_attention": False}
    config = SYSTEMS["video_llava"].architecture.build_config(text, {"image": TOWER, "video": video}, {})
    plain = Checkpoint(VideoLM(config), build_processor(config, tokenizer), LoadReport("memory"))
    with pytest.raises(UserError, match="no attention over time"):
        save_checkpoint(plain, tmp_path / "out", "official")
    assert not (tmp_path / "out").exists()
