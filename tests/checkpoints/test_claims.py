"""Which system a checkpoint belongs to: matchers see names and shapes, a tie is refused, and the user can decide."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_up_system import system_like
from tiny_models import TOKENIZER
from transformers import AutoConfig, AutoModelForCausalLM

import vidtune
from vidtune.checkpoints.build import build_model
from vidtune.checkpoints.load import load_checkpoint
from vidtune.checkpoints.recognise import recognise
from vidtune.checkpoints.write import save_checkpoint
from vidtune.cli.main import run
from vidtune.errors import UserError
from vidtune.recipe.types import Recipe
from vidtune.registry import SYSTEMS

WEIGHT = "model.mm_projector.weight"


@pytest.fixture(scope="module")
def wide() -> Iterator[str]:
    """Name of a system that claims every projector of the shipped one which is not 24 wide."""
    formats = SYSTEMS["longvale"].publication.formats
    projector = replace(formats[-1], matches=lambda config, shapes: shapes.get(WEIGHT, (0, 24))[1] != 24)
    with system_like("longvale", "wide", formats=(projector,)) as system:
        yield system.name


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("claims")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model("llama", **sizes, vocab_size=560, max_position_embeddings=512)
    AutoModelForCausalLM.from_config(config).save_pretrained(root / "llm")
    shutil.copy(TOKENIZER, root / "llm/tokenizer.model")
    for name, width in (("both", 768), ("one", 24)):
        torch.save({WEIGHT: torch.randn(32, width), "model.mm_projector.bias": torch.randn(32)}, root / f"{name}.bin")
    (root / "settings").mkdir()
    stored = {"vidtune_towers": {"vision": {"hidden_size": 24}}}
    shutil.copy(root / "one.bin", root / "settings/mm_projector.bin")
    (root / "settings/config.json").write_text(json.dumps(stored))
    return {"llm": root / "llm", "both": root / "both.bin", "one": root / "settings"}


def test_shapes_decide_between_systems(wide, places):
    assert load_checkpoint(places["one"], base=str(places["llm"])).processor.system == "longvale"


def test_tie_is_refused_and_the_user_decides(wide, places):
    said = r"both\.bin: claimed by the systems longvale \(format projector\) and wide \(format projector\); name one"
    with pytest.raises(UserError, match=said):
        load_checkpoint(places["both"], base=str(places["llm"]))
    for system in ("longvale", wide):
        loaded = vidtune.load(places["both"], base=str(places["llm"]), system=system, device="cpu")
        assert loaded.system == system
    with pytest.raises(UserError, match="not a checkpoint of system video_llava"):
        load_checkpoint(places["both"], base=str(places["llm"]), system="video_llava")
    with pytest.raises(UserError, match="unknown system 'wode'; did you mean 'wide'"):
        load_checkpoint(places["both"], base=str(places["llm"]), system="wode")


def test_tie_is_refused_in_one_line_and_decided_by_an_option(wide, places, tmp_path, capsys):
    words = ["convert", str(places["both"]), str(tmp_path / "out"), "--model-base", str(places["llm"])]
    assert run(words) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert run([*words, "--system", wide]) == 0
    assert json.loads((tmp_path / "out/config.json").read_text())["system"] == wide


def test_recipe_decides_for_its_files(wide, places):
    parts = {"system": wide, "language_model": str(places["llm"]), "connectors": {"visual": str(places["both"])}}
    assert build_model(Recipe(**parts)).config.system == wide


def test_model_of_ours_is_of_the_system_that_it_names(wide, places, tmp_path):
    loaded = load_checkpoint(places["both"], base=str(places["llm"]), system=wide)
    save_checkpoint(loaded, tmp_path / "ours")
    assert load_checkpoint(tmp_path / "ours").processor.system == wide
    with pytest.raises(UserError, match="ours: is of system wide, not of longvale"):
        load_checkpoint(tmp_path / "ours", system="longvale")
    with pytest.raises(UserError, match="ours: is of system wide, not of longvale"):
        build_model(Recipe(system="longvale", checkpoint=str(tmp_path / "ours")))


def test_what_a_projector_stands_on_names_its_system(places, tmp_path):
    whole = load_checkpoint(places["one"], base=str(places["llm"]))
    save_checkpoint(whole, tmp_path / "whole")
    assert recognise(places["one"] / "mm_projector.bin", base=[str(tmp_path / "whole")]).system == "longvale"
