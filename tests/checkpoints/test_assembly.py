"""How a model is put together from published files: key maps of connectors, towers below a base."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_up_system import system_like
from safetensors.torch import save_file
from tiny_models import TOKENIZER
from transformers import AutoConfig, AutoModelForCausalLM

from vidtune.checkpoints.build import build_model
from vidtune.checkpoints.load import load_checkpoint
from vidtune.checkpoints.publication import NamedParts
from vidtune.errors import UserError
from vidtune.models.towers.base import tower_config
from vidtune.recipe.types import Recipe
from vidtune.registry import SYSTEMS
from vidtune.systems.parts.openai_whisper import ENCODER_TOWER

D = 32
SIZES = {"hidden_size": D, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
WHISPER = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("assembly") / "llm"
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **SIZES, vocab_size=560, max_position_embeddings=512)
    AutoModelForCausalLM.from_config(config).save_pretrained(root)
    shutil.copy(TOKENIZER, root / "tokenizer.model")
    return root


@pytest.fixture
def transposed() -> Iterator[str]:
    """Name of a system whose projector is stored transposed, beside a count that nobody needs and an old head."""

    def transpose(state):
        return {name: tensor.T if name.endswith(".weight") else tensor for name, tensor in state.items()}

    projector = SYSTEMS["longvale"].publication.formats[-1]
    keys = replace(
        projector.keys,
        ignored=(r"steps$",),
        left_out=((r"old_head\.", "an old head"),),
        rewrite=transpose,
        restore=transpose,
    )
    format = replace(projector, keys=keys, matches=lambda config, shapes: "steps" in shapes)
    with system_like("longvale", "transposed", formats=(format,)) as system:
        yield system.name


def test_file_of_a_recipe_takes_the_whole_key_map(transposed, llm, tmp_path):
    connector = {"weight": torch.randn(768, D), "bias": torch.randn(D)}
    stored = {f"model.mm_projector.{kind}": tensor for kind, tensor in connector.items()}
    torch.save({**stored, "steps": torch.ones(1), "old_head.weight": torch.ones(2, 3)}, tmp_path / "projector.bin")
    named = {"visual": str(tmp_path / "projector.bin")}
    reports: list = []
    model = build_model(Recipe(system=transposed, language_model=str(llm), connectors=named), reports=reports)
    assert torch.equal(model.connectors["visual"][0].weight, connector["weight"].T)
    report = next(report for report in reports if report.format == "connectors.visual")
    assert (report.loaded, report.ignored, report.left_out) == (2, 2, {"an old head": 1})
    loaded = load_checkpoint(tmp_path / "projector.bin", base=str(llm)).model
    assert torch.equal(loaded.connectors["visual"][0].weight, connector["weight"].T)
    torch.save({**stored, "steps": torch.ones(1), "gate": torch.ones(1)}, tmp_path / "projector.bin")
    with pytest.raises(UserError, match=r"projector\.bin: 1 keys unexpected as connectors\.visual checkpoint"):
        build_model(Recipe(system=transposed, language_model=str(llm), connectors=named))


def test_file_of_connectors_of_a_system_that_publishes_none_is_refused(llm, tmp_path):
    torch.save({"weight": torch.ones(1)}, tmp_path / "projector.bin")
    named = {"visual": str(tmp_path / "projector.bin")}
    with pytest.raises(UserError, match=r"no file of connectors of system video_panda \(formats: it has none\)"):
        build_model(Recipe(system="video_panda", language_model=str(llm), connectors=named))


@pytest.fixture
def places(llm, tmp_path) -> dict[str, Path]:
    """A projector and a speech tower."""
    torch.save({"mm_projector.weight": torch.randn(D, 768), "mm_projector.bias": torch.randn(D)}, tmp_path / "p.bin")
    (tmp_path / "speech").mkdir()
    tower = tower_config({"type": "whisper", **ENCODER_TOWER.read_sizes({"model_type": "whisper", **WHISPER}, {})})
    state = {name: tensor.contiguous() for name, tensor in tower.build().state_dict().items()}
    save_file(state, tmp_path / "speech/model.safetensors")
    (tmp_path / "speech/config.json").write_text(json.dumps({"model_type": "whisper", **WHISPER}))
    return {"llm": llm, "projector": tmp_path / "p.bin", "speech": tmp_path / "speech"}


@pytest.fixture
def naming() -> Iterator[str]:
    """Name of a system whose projector files name a place of the speech tower."""
    named = NamedParts(towers={"speech": "./no-such-whisper"})
    shipped = SYSTEMS["longvale"].publication
    with system_like("longvale", "naming", named_parts=lambda config: named, formats=shipped.formats) as system:
        yield system.name


def test_tower_below_a_base_takes_the_place_of_the_one_that_is_named(naming, places):
    options = {"base": str(places["llm"]), "system": naming}
    with pytest.raises(UserError, match="no-such-whisper: no such file or folder"):
        load_checkpoint(places["projector"], **options)
    model = load_checkpoint(places["projector"], **options, towers={"speech": str(places["speech"])}).model
    assert "towers.speech" in model.components() and model.config.tower("speech").hidden_size == 16
    with pytest.raises(UserError, match=r"tower 'spech' is not published alone \(known: vision, audio, speech\)"):
        load_checkpoint(places["projector"], **options, towers={"spech": str(places["speech"])})
