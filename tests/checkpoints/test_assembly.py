"""How a model is put together from published files: key maps, towers below a base, differences."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_up_system import system_like
from safetensors.torch import load_file, save_file
from tiny_models import TOKENIZER
from transformers import AutoConfig, AutoModelForCausalLM

from vidtune.checkpoints.build import build_model
from vidtune.checkpoints.load import load_checkpoint
from vidtune.checkpoints.parts.difference import add_difference
from vidtune.checkpoints.publication import NamedParts
from vidtune.checkpoints.write import save_checkpoint
from vidtune.cli.main import run
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
    format = replace(projector, keys=keys, matches=lambda config, shapes: "steps" in shapes, certain=lambda *_: True)
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


LONGER = 3


@pytest.fixture
def published_as_differences() -> Iterator[str]:
    """Name of a system that publishes language model and vision connector as differences to a base."""
    shipped = SYSTEMS["longvale"].publication
    official, _lora, projector = shipped.formats
    delta = replace(
        official,
        name="delta",
        matches=lambda config, shapes: config.get("model_type") == "delta",
        read_config=None,
        write_config=lambda config, towers: {"model_type": "delta", "vocab_size": config.text_config.vocab_size},
        partial=("language_model", "connectors.visual"),
        difference=True,
    )
    alone = replace(projector, matches=lambda config, shapes: "model.mm_projector.weight" in shapes)
    with system_like("longvale", "delta", formats=(delta, alone)) as system:
        yield system.name


def write_delta(llm: Path, folder: Path, longer: int = LONGER) -> dict[str, torch.Tensor]:
    """Write differences with a longer vocabulary and a connector. Returns what the whole language model is to be."""
    base = AutoModelForCausalLM.from_pretrained(llm).state_dict()
    generator = torch.Generator().manual_seed(1)
    stored, wanted = {}, {}
    for name, tensor in base.items():
        shape = (len(tensor) + longer, *tensor.shape[1:]) if len(tensor) == 560 else tensor.shape
        stored[name] = torch.randn(shape, generator=generator)
        wanted[name] = stored[name].clone()
        wanted[name][: len(tensor)] += tensor
    stored["model.mm_projector.weight"] = torch.randn(D, 768, generator=generator)
    stored["model.mm_projector.bias"] = torch.randn(D, generator=generator)
    folder.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "delta", "vocab_size": 560 + longer}))
    return wanted | {name: stored[name] for name in stored if "mm_projector" in name}


def test_differences_are_added_by_key_and_shape(published_as_differences, llm, tmp_path):
    wanted = write_delta(llm, tmp_path / "delta")
    loaded = load_checkpoint(tmp_path / "delta", base=str(llm), system=published_as_differences)
    model = loaded.model
    assert model.config.text_config.vocab_size == 563 and loaded.report.format == "delta"
    for name, tensor in model.language_model.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name
    assert torch.equal(model.connectors["visual"][0].weight, wanted["model.mm_projector.weight"])
    assert {name.rsplit(".", 2)[0] for name in loaded.report.drawn} == {"connectors.audio", "connectors.speech"}


def test_projector_stands_on_differences_and_a_recipe_starts_from_them(published_as_differences, llm, tmp_path):
    wanted = write_delta(llm, tmp_path / "delta")
    upper = {"model.mm_projector.weight": torch.randn(D, 768), "model.mm_projector.bias": torch.randn(D)}
    torch.save(upper, tmp_path / "projector.bin")
    below = [str(llm), str(tmp_path / "delta")]
    model = load_checkpoint(tmp_path / "projector.bin", base=below, system="delta").model
    assert torch.equal(model.connectors["visual"][0].weight, upper["model.mm_projector.weight"])
    assert torch.equal(model.language_model.lm_head.weight, wanted["lm_head.weight"])
    recipe = Recipe(system="delta", checkpoint=str(tmp_path / "delta"), language_model=str(llm))
    assert torch.equal(build_model(recipe).language_model.lm_head.weight, wanted["lm_head.weight"])


def test_tokenizer_of_differences_comes_first(published_as_differences, llm, tmp_path):
    write_delta(llm, tmp_path / "delta")
    assert load_checkpoint(tmp_path / "delta", base=str(llm)).processor.tokenizer.name_or_path == str(llm)
    shutil.copy(TOKENIZER, tmp_path / "delta/tokenizer.model")
    loaded = load_checkpoint(tmp_path / "delta", base=str(llm))
    assert loaded.processor.tokenizer.name_or_path == str(tmp_path / "delta")


def test_differences_are_written_back(published_as_differences, llm, tmp_path):
    write_delta(llm, tmp_path / "delta")
    assert run(["convert", str(tmp_path / "delta"), str(tmp_path / "whole"), "--model-base", str(llm)]) == 0
    words = ["convert", str(tmp_path / "whole"), str(tmp_path / "again"), "--to", "delta"]
    assert run(words) == 2
    assert run([*words, "--difference-from", str(llm)]) == 0
    stored, again = (load_file(tmp_path / name / "model.safetensors") for name in ("delta", "again"))
    assert list(stored) == list(again)
    for name, tensor in stored.items():
        torch.testing.assert_close(again[name], tensor, atol=1e-6, rtol=1e-6)
    new = again["lm_head.weight"][560:]
    assert torch.equal(new, stored["lm_head.weight"][560:])
    assert load_checkpoint(tmp_path / "again", base=str(llm)).model.config.text_config.vocab_size == 563
    words = ["convert", str(tmp_path / "delta"), str(tmp_path / "third"), "--to", "delta"]
    assert run([*words, "--model-base", str(llm)]) == 0
    third = load_file(tmp_path / "third/model.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in third.items())


def test_differences_in_half_precision_are_rounded_once(llm):
    base = {"a": torch.tensor([1.0, 2.0]).half()}
    difference = {"a": torch.tensor([0.0004, 3.0, 5.0]).half(), "b": torch.tensor([7.0]).half()}
    added = add_difference(base, difference, llm)
    assert added["a"].dtype == torch.float16 and torch.equal(added["a"], torch.tensor([1.0004, 5.0, 5.0]).half())
    assert torch.equal(added["b"], difference["b"])
    assert torch.equal(difference["a"][1:], torch.tensor([3.0, 5.0]).half())


@pytest.mark.parametrize(
    ("below", "message"),
    [
        ((), "delta: holds differences to a language model; name its language model with --model-base"),
        (("projector.bin",), "projector.bin: holds no language model, which has to be the first"),
        (("whole",), "delta: holds differences to a language model, but .*whole is a whole model; name the language"),
        (("llm", "projector.bin"), "delta: holds differences to a language model; name it directly after that one"),
        (("narrow",), r"delta: language_model\..*: shape .* does not fit \(.*\) of the base; name the right base"),
        (("deep",), r"delta: language_model\.model\.layers\.1\..*: one of the language model and its base lacks it"),
    ],
    ids=str,
)
def test_differences_that_do_not_fit_are_refused(below, message, published_as_differences, llm, tmp_path):
    write_delta(llm, tmp_path / "delta")
    projector = {"model.mm_projector.weight": torch.randn(D, 768), "model.mm_projector.bias": torch.randn(D)}
    torch.save(projector, tmp_path / "projector.bin")
    shutil.copytree(llm, tmp_path / "llm")
    for name, change in (("narrow", {"hidden_size": 16}), ("deep", {"num_hidden_layers": 2})):
        config = AutoConfig.for_model("llama", **{**SIZES, **change}, vocab_size=560)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / name)
        shutil.copy(TOKENIZER, tmp_path / name / "tokenizer.model")
    if below == ("whole",):
        save_checkpoint(load_checkpoint(tmp_path / "delta", base=str(llm)), tmp_path / "whole")
    with pytest.raises(UserError, match=message):
        load_checkpoint(tmp_path / "delta", base=[str(tmp_path / name) for name in below], system="delta")
