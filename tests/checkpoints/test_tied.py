"""Tied weights: written once and read under either name, in every format of every system."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from tiny_models import TOKENIZER
from torch import Tensor
from transformers import AutoConfig, LlamaTokenizer

from vidtune.checkpoints.assembly.apply import key_map
from vidtune.checkpoints.build import build_model
from vidtune.checkpoints.fit_processor import build_processor
from vidtune.checkpoints.load import Checkpoint, load_checkpoint
from vidtune.checkpoints.lora.adapter_files import adapter_config, adapter_from_state
from vidtune.checkpoints.lora.bundle import LANGUAGE_MODEL, Base, weight_sample, write_bundle
from vidtune.checkpoints.lora.injection import add_adapters
from vidtune.checkpoints.recognise import recognise
from vidtune.checkpoints.report import OURS, LoadReport
from vidtune.checkpoints.write import save_checkpoint
from vidtune.errors import UserError
from vidtune.models.video_lm import VideoLM
from vidtune.recipe.files import dump_recipe, load_recipe
from vidtune.recipe.types import LoRA, Recipe
from vidtune.registry import SYSTEMS

HEAD, EMBEDDINGS = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"
FORMATS = {
    (system, form.name): form
    for system in SYSTEMS.names()
    for form in SYSTEMS[system].publication.formats
    if form.write_config or form.partial
}
WHOLE = [(system, OURS) for system in SYSTEMS.names()] + [pair for pair, form in FORMATS.items() if not form.partial]
# The connector of videochat_flash stands on a file of a tower: tests/parity/videochat_flash/files.py.
PARTIAL = [pair for pair, form in FORMATS.items() if form.partial and pair[0] != "videochat_flash"]
TOWER_NAMES = {"video_llava": ("image", "video"), "artemis": ("clip",)}
"""System -> towers that its partial formats name by their places."""
LANGUAGE_MODELS = {"videochat_flash": "qwen2"}
"""System -> type of its language model; of the others a Llama."""
TIES = pytest.mark.parametrize("tied", [True, pytest.param(False, marks=pytest.mark.whole)], ids=["tied", "untied"])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    shutil.copy(TOKENIZER, folder / "tokenizer.model")
    LlamaTokenizer.from_pretrained(str(folder)).save_pretrained(folder)
    return folder


def sizes_of(system: str) -> list[dict[str, dict]]:
    """Sizes of towers and of connectors in the shipped tiny recipe of a system."""
    recipe = load_recipe(f"{system}_tiny", expand=False)
    groups = (recipe.towers, recipe.connectors)
    return [{name: spec for name, spec in parts.items() if isinstance(spec, dict)} for parts in groups]


def make(system: str, tied: bool, tokenizer: Path) -> Checkpoint:
    """A tiny model of a system, with the towers of its shipped tiny recipe."""
    torch.manual_seed(3)
    kind = LANGUAGE_MODELS.get(system, "llama")
    text = AutoConfig.for_model(
        kind, vocab_size=500, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=512, tie_word_embeddings=tied,
    )  # fmt: skip
    model = VideoLM(SYSTEMS[system].architecture.build_config(text, *sizes_of(system))).eval()
    assert (model.get_parameter(HEAD) is model.get_parameter(EMBEDDINGS)) == tied
    return Checkpoint(model, build_processor(model.config, tokenizer), LoadReport("memory"))


def logits(model: VideoLM) -> Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(3, 20).unsqueeze(0)).logits


def assert_same(one: VideoLM, other: VideoLM, tied: bool, form: str = OURS) -> None:
    """Both hold the same weights, but for those that the format is without."""
    assert torch.equal(logits(one), logits(other))
    without = () if form == OURS else FORMATS[one.config.system, form].without
    ours = {name: tensor for name, tensor in one.state_dict().items() if not name.startswith(without)}
    theirs = other.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert (other.get_parameter(HEAD) is other.get_parameter(EMBEDDINGS)) == tied


def stored_names(folder: Path) -> list[str]:
    return [name for name in load_file(folder / "model.safetensors") if "lm_head" in name or "embed_tokens" in name]


@TIES
@pytest.mark.parametrize(("system", "form"), WHOLE)
def test_a_whole_model_is_written_and_read_back(system: str, form: str, tied: bool, tokenizer, tmp_path: Path) -> None:
    checkpoint = make(system, tied, tokenizer)
    save_checkpoint(checkpoint, tmp_path / "out", form)
    assert len(stored_names(tmp_path / "out")) == (1 if tied else 2)
    assert_same(checkpoint.model, load_checkpoint(tmp_path / "out").model, tied, form)


@pytest.mark.parametrize(("system", "form"), WHOLE)
def test_a_tied_weight_is_read_under_either_name(system: str, form: str, tokenizer, tmp_path: Path) -> None:
    checkpoint = make(system, True, tokenizer)
    save_checkpoint(checkpoint, tmp_path / "out", form)
    path = tmp_path / "out/model.safetensors"
    state = load_file(path)
    (embeddings,) = stored_names(tmp_path / "out")
    head = embeddings.replace("model.embed_tokens", "lm_head")
    weight = state.pop(embeddings)
    for names, difference in (([head], 0.0), ([head, embeddings], 0.0), ([head, embeddings], 1.0)):
        held = {name: weight + difference * number for number, name in enumerate(names)}
        save_file({**state, **held}, path, metadata={"format": "pt"})
        if difference:
            with pytest.raises(UserError, match="are one weight by the config but hold different values") as caught:
                load_checkpoint(tmp_path / "out")
            assert "\n" not in str(caught.value)
        else:
            assert_same(checkpoint.model, load_checkpoint(tmp_path / "out").model, True, form)


def write_parts(checkpoint: Checkpoint, folder: Path) -> Recipe:
    """The language model of a model, as users bring it, and a recipe that names it; towers are drawn anew."""
    checkpoint.model.language_model.save_pretrained(folder / "llm")
    checkpoint.processor.tokenizer.save_pretrained(folder / "llm")
    system = checkpoint.model.config.system
    return Recipe(system=system, language_model=str(folder / "llm"), connectors=sizes_of(system)[1])


@TIES
@pytest.mark.parametrize("name", ["lm_head.weight", "model.embed_tokens.weight"])
def test_a_language_model_holds_either_name(name: str, tied: bool, tokenizer, tmp_path: Path) -> None:
    checkpoint = make("longvale", tied, tokenizer)
    recipe = write_parts(checkpoint, tmp_path)
    path = tmp_path / "llm/model.safetensors"
    state = load_file(path)
    weight = state.pop("model.embed_tokens.weight")
    state.pop("lm_head.weight", None)
    save_file({**state, name: weight}, path, metadata={"format": "pt"})
    if tied:
        assert torch.equal(logits(build_model(recipe)), logits(checkpoint.model))
    else:
        with pytest.raises(UserError, match="1 keys missing as language_model checkpoint"):
            build_model(recipe)


def write_run(model: VideoLM, recipe: Recipe, folder: Path) -> None:
    """A bundle as a stage leaves it: an adapter of the language model, and connectors trained beside it."""
    settings = LoRA(rank=2, alpha=4)
    sample = weight_sample(model)
    layers = add_adapters(model.language_model, settings, 0, "test")
    for parameter in model.language_model.parameters():
        parameter.requires_grad_(False)
    for name, parameter in model.language_model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    state = get_peft_model_state_dict(model.language_model, adapter_name="default")
    adapter = adapter_from_state(
        state, adapter_config(settings, layers, str(recipe.language_model), "CAUSAL_LM"), folder
    )
    wanted = ("connectors.audio.", "connectors.speech.") if recipe.system == "longvale" else ("connectors.",)
    others = {name: tensor + 0.5 for name, tensor in model.state_dict().items() if name.startswith(wanted)}
    folder.mkdir()
    write_bundle(folder, Base.of_recipe(recipe), sample, {LANGUAGE_MODEL: adapter}, others)
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    model.config.save_pretrained(folder)
    build_processor(model.config, str(recipe.language_model)).save_pretrained(folder)


@TIES
@pytest.mark.parametrize(("system", "form"), PARTIAL)
def test_a_partial_format_is_written_and_read_back(system: str, form: str, tied: bool, tokenizer, tmp_path) -> None:
    checkpoint = make(system, tied, tokenizer)
    recipe, base = write_parts(checkpoint, tmp_path), [str(tmp_path / "llm")]
    if system != "longvale":  # its towers have to be published too
        for name in TOWER_NAMES[system]:
            write_tower(checkpoint.model, name, tmp_path / name)
        recipe = recipe.model_copy(update={"towers": {name: str(tmp_path / name) for name in TOWER_NAMES[system]}})
    else:
        whole = build_model(recipe)
        save_checkpoint(Checkpoint(whole, checkpoint.processor, LoadReport("memory")), tmp_path / "visual", "projector")
        recipe = recipe.model_copy(update={"connectors": {"visual": str(tmp_path / "visual/mm_projector.bin")}})
        base.append(str(tmp_path / "visual/mm_projector.bin"))
    write_run(build_model(recipe), recipe, tmp_path / "bundle")
    bundle = load_checkpoint(tmp_path / "bundle")
    assert not torch.equal(logits(bundle.model), logits(checkpoint.model))
    save_checkpoint(bundle, tmp_path / "out", form)
    if form == "projector":
        if system != "longvale":
            named = zip(("image", "video"), TOWER_NAMES[system], strict=False)
            parts: dict = {f"mm_{theirs}_tower": str(tmp_path / name) for theirs, name in named}
            parts |= {"vidtune_connectors": sizes} if (sizes := sizes_of(system)[1]) else {}
            (tmp_path / "out/config.json").write_text(json.dumps(parts))
        again = load_checkpoint(tmp_path / "out", base=base[:1]).model
        for name, tensor in again.connectors.state_dict().items():
            if name.startswith("visual."):
                assert torch.equal(tensor, bundle.model.connectors.state_dict()[name])
        assert torch.equal(logits(again), logits(checkpoint.model))
    else:
        assert_same(bundle.model, load_checkpoint(tmp_path / "out", base=base).model, tied)


def write_tower(model: VideoLM, name: str, folder: Path) -> None:
    folder.mkdir()
    state = {f"vision_model.{key}": value for key, value in model.towers[name].state_dict().items()}
    save_file(state, folder / "model.safetensors")
    ours = ("type", "feature_layer", "keep_class_token", "pooled_frames")  # what a published tower does not tell
    sizes = {key: size for key, size in model.config.towers[name].items() if key not in ours}
    sizes["add_time_attn"] = sizes.pop("temporal_attention", False)
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": sizes}))


def test_an_official_model_of_a_tied_bundle_answers_the_same(tokenizer, tmp_path: Path) -> None:
    checkpoint = make("longvale", True, tokenizer)
    recipe = write_parts(checkpoint, tmp_path)
    write_run(build_model(recipe), recipe, tmp_path / "bundle")
    bundle = load_checkpoint(tmp_path / "bundle")
    for form in (OURS, "official"):
        save_checkpoint(bundle, tmp_path / form, form)
        assert_same(bundle.model, load_checkpoint(tmp_path / form).model, True)
    part = recognise(tmp_path / "llm", component=LANGUAGE_MODEL)
    assert key_map(part).to_ours("lm_head.weight") == HEAD
