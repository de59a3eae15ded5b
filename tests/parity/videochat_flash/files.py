"""Published files of VideoChat-Flash: whole models in both forms, the connector of stage 1, encoders of towers."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig
from videochat_flash_fixture import byte_tokenizer, read, text_sizes, tower_sizes

from vidtune.checkpoints.load import load_checkpoint
from vidtune.checkpoints.recognise import recognise
from vidtune.checkpoints.write import export_state, save_checkpoint
from vidtune.errors import UserError
from vidtune.models.video_lm import VideoLM
from vidtune.registry import SYSTEMS

SYSTEM = SYSTEMS["videochat_flash"]
FORMATS = {format.name: format for format in SYSTEM.publication.formats}
WEIGHTS = {"umt": "weights.safetensors", "iv2": "weights_internvideo2.safetensors"}
TOWER = "model.vision_tower.vision_tower."


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    """Both models as the training code writes them, and in parts: a language model, a connector, an encoder file."""
    config, places = read("config.json"), {}
    tokenizer = byte_tokenizer(read("host_side.json")["tokenizer"]["special"])
    root = tmp_path_factory.mktemp("videochat_flash")
    for tower, file in WEIGHTS.items():
        state = read(file)
        text = AutoConfig.for_model("qwen2", **text_sizes(config, tower))
        built = SYSTEM.architecture.build_config(text, {"vision": tower_sizes(config, tower)}, {})
        settings = {"whole": FORMATS["official"].write_config(built, {}), "llm": text.to_dict()}
        own = {name: tensor for name, tensor in state.items() if not re.search("vision_tower|mm_projector", name)}
        parts = {"whole": state, "llm": own}
        for name, held in parts.items():
            place = places[f"{tower} {name}"] = root / tower / name
            place.mkdir(parents=True)
            (place / "config.json").write_text(json.dumps(settings[name]))
            save_file(held, place / "model.safetensors", metadata={"format": "pt"})
            tokenizer.save_pretrained(place)
        stage1 = places[f"{tower} stage1"] = root / tower / "stage1"
        stage1.mkdir()
        torch.save({name: tensor for name, tensor in state.items() if "mm_proj" in name}, stage1 / "mm_projector.bin")
        flat = {**settings["whole"], "image_aspect_ratio": "square", "mm_patch_merge_type": "flat"}
        (stage1 / "config.json").write_text(json.dumps(flat))
        places[f"{tower} encoder"] = root / tower / "encoder.pt"
        torch.save(encoder_file(state, tower), places[f"{tower} encoder"])
    return places


def encoder_file(state: dict, tower: str) -> dict:
    """An encoder as it is published before training: one block more, and other names of its norm and scales."""
    own = {name.removeprefix(TOWER): tensor for name, tensor in state.items() if name.startswith(TOWER)}
    own = {name.replace("vision_layernorm", "norm"): tensor for name, tensor in own.items()}
    last = {name.replace("blocks.1.", "blocks.2."): tensor for name, tensor in own.items() if "blocks.1." in name}
    other = {"encoder.decoder.weight" if tower == "umt" else "clip_projector.weight": torch.zeros(1)}
    return {**own, **last, **other}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("tower", WEIGHTS)
def test_a_whole_model_is_read_and_written_in_both_forms(tower, places, tmp_path):
    found = load_checkpoint(places[f"{tower} whole"])
    assert found.report.format == "official"
    for form, kind in (("official", "llava_qwen"), ("hub", "videochat_flash_qwen")):
        save_checkpoint(found, tmp_path / form, form)
        assert same(load_file(tmp_path / form / "model.safetensors"), read(WEIGHTS[tower]))
        assert json.loads((tmp_path / form / "config.json").read_text())["model_type"] == kind
        again = load_checkpoint(tmp_path / form)
        assert again.report.format == form and again.model.config.to_dict() == found.model.config.to_dict()


@pytest.mark.parametrize("tower", WEIGHTS)
def test_language_model_connector_and_encoder_file_make_the_model(tower, places):
    source = recognise(places[f"{tower} stage1"])
    assert (source.system, source.kind) == ("videochat_flash", "connectors")
    found = load_checkpoint(
        places[f"{tower} stage1"],
        base=str(places[f"{tower} llm"]),
        towers={"vision": str(places[f"{tower} encoder"])},
    )
    assert same(export_state(found.model, FORMATS["official"]), read(WEIGHTS[tower]))


def test_a_file_of_the_connector_alone_is_told_by_its_names(places):
    source = recognise(places["umt stage1"] / "mm_projector.bin")
    assert (source.system, source.kind) == ("videochat_flash", "connectors")


def test_the_name_of_the_tower_tells_the_size_of_pictures():
    text = AutoConfig.for_model("qwen2", hidden_size=32, num_attention_heads=2, num_key_value_heads=2)
    for size, name in ((224, "umt-large"), (448, "umt-hd-large")):
        config = SYSTEM.architecture.build_config(text, {"vision": {"image_size": size}}, {})
        written = FORMATS["hub"].write_config(config, {})
        assert written["mm_vision_tower"] == name and [size, size] == written["image_grid_pinpoints"][0]
        del written["vidtune_towers"], written["vidtune_connectors"]
        keys = {f"{TOWER}encoder.{key}": tuple(value.shape) for key, value in on_meta(config).items()}
        again = FORMATS["hub"].read_config(written, keys)
        assert again.tower("vision") == config.tower("vision") and again.streams == config.streams


def on_meta(config) -> dict:
    with torch.device("meta"):
        return config.tower("vision").build().state_dict()


def test_a_tied_head_is_left_out_and_found_again(tmp_path, places):
    found = load_checkpoint(places["umt whole"])
    config = found.model.config
    config.text_config.tie_word_embeddings = config.tie_word_embeddings = True
    found.model = VideoLM(config)
    save_checkpoint(found, tmp_path / "tied", "hub")
    held = load_file(tmp_path / "tied/model.safetensors")
    assert sorted(read(WEIGHTS["umt"])) == sorted([*held, "lm_head.weight"])
    assert same(load_checkpoint(tmp_path / "tied").model.state_dict(), found.model.state_dict())


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"mm_newline_position": "frame"}, 'mm_newline_position is "frame"; .*learned token between frames'),
        (
            {"mm_vision_tower": "siglip"},
            "mm_vision_tower is 'siglip'; expected umt-large, umt-hd-large or int",
        ),
        ({"mm_vision_tower": "internvideo2"}, "mm_vision_tower is 'internvideo2', but the weights are of umt"),
        ({"mm_local_num_frames": 8}, "mm_local_num_frames is 8"),
        ({"image_grid_pinpoints": [[36, 36]]}, "image_grid_pinpoints"),
        ({"use_sliding_window": True}, "use_sliding_window is true"),
        ({"mm_patch_merge_type": "flat"}, "pictures are not cut into tiles"),
        ({"mm_llm_compress": True, "llm_compress_type": ["attention"]}, "its steps cannot be read from"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(changes, said, places, tmp_path):
    shutil.copytree(places["umt whole"], tmp_path / "whole")
    config = json.loads((tmp_path / "whole/config.json").read_text())
    (tmp_path / "whole/config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(UserError, match=said):
        load_checkpoint(tmp_path / "whole")


@pytest.mark.parametrize("name", ["uniform0_attention", "attention", "uniform", "uniform1_attention"])
def test_dropping_of_tokens_is_a_layer_program_and_is_written_back(name, places):
    config = read("config.json")["notes"]["drop_variants"][name]
    whole = json.loads((places["umt whole"] / "config.json").read_text())
    shapes = {key: tuple(value.shape) for key, value in read(WEIGHTS["umt"]).items()}
    found = FORMATS["hub"].read_config({**whole, **config}, shapes)
    assert [step["after"] for step in found.layer_program] == config["llm_compress_layer_list"]
    assert {key: FORMATS["hub"].write_config(found, {})[key] for key in config} == config
    with pytest.raises(ValueError, match="its steps cannot be read from"):
        FORMATS["hub"].read_config({**whole, **config, "llm_image_token_ratio_list": [1.0]}, shapes)


def test_a_missing_block_of_an_encoder_file_is_counted():
    shapes = {key: tuple(tensor.shape) for key, tensor in encoder_file(read(WEIGHTS["umt"]), "umt").items()}
    gap = {key: shape for key, shape in shapes.items() if ".blocks.1." not in key}
    sizes = [SYSTEM.publication.towers["vision"].read_sizes({}, held)["num_hidden_layers"] for held in (shapes, gap)]
    assert sizes[0] == sizes[1]


def test_clips_of_other_lengths_have_no_place_in_the_forms():
    text = AutoConfig.for_model("qwen2", hidden_size=32, num_attention_heads=2, num_key_value_heads=2)
    config = SYSTEM.architecture.build_config(text, {"vision": {"clip_frames": 8}}, {})
    with pytest.raises(ValueError, match="clips of 4 frames, not of 8"):
        FORMATS["hub"].write_config(config, {})


def test_another_language_model_has_no_place_in_the_forms(places):
    text = AutoConfig.for_model("llama", hidden_size=32, num_attention_heads=2)
    config = SYSTEM.architecture.build_config(text, {}, {})
    with pytest.raises(ValueError, match="a language model of type llama"):
        FORMATS["official"].write_config(config, {})
