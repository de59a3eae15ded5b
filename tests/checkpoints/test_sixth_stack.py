"""A stack of a system that adds tokens: language model, differences to it, a projector with rows of the tokens."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_up_system import system_like
from marked_system import MARKED, TEXTS, marked_system
from safetensors.torch import load_file, save_file
from tiny_models import TOKENIZER, TOWER
from transformers import AutoConfig, AutoModelForCausalLM, LlamaTokenizer

from vidtune.checkpoints.build import build_model
from vidtune.checkpoints.explain import explain
from vidtune.checkpoints.load import load_checkpoint, recognise_checkpoint
from vidtune.checkpoints.publication import KeyMap, NamedParts
from vidtune.checkpoints.write import save_checkpoint
from vidtune.errors import UserError
from vidtune.recipe.types import Recipe
from vidtune.registry import SYSTEMS
from vidtune.training.inspection.dry_run import starting_config

D, COUNT = 32, len(LlamaTokenizer.from_pretrained(str(TOKENIZER.parent)))
SIZES = {"hidden_size": D, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
TOWERS = {"image": TOWER, "video": {**TOWER, "num_frames": 2, "patch_size": 8}}
NAME = "sixth"


@pytest.fixture(autouse=True, scope="module")
def system() -> Iterator[None]:
    with marked_system():
        shipped = SYSTEMS[MARKED].publication
        whole = shipped.formats[0]
        delta = replace(
            whole,
            name="delta",
            keys=KeyMap((("", "language_model."),)),
            matches=lambda config, shapes: config.get("model_type") == "sixth-delta",
            read_config=None,
            write_config=lambda config, towers: {
                "model_type": "sixth-delta",
                "vocab_size": config.text_config.vocab_size,
            },
            partial=("language_model",),
            difference=True,
        )
        formats = (delta, shipped.formats[1])
        with system_like(MARKED, NAME, formats=formats, named_parts=lambda config: NamedParts(TOWERS)):
            yield


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base, differences to it with the same vocabulary, and a projector with three rows."""
    root, generator = tmp_path_factory.mktemp("sixth"), torch.Generator().manual_seed(3)
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **SIZES, vocab_size=COUNT, max_position_embeddings=512)
    base = AutoModelForCausalLM.from_config(config)
    base.save_pretrained(root / "llm")
    shutil.copy(TOKENIZER, root / "llm/tokenizer.model")
    (root / "delta").mkdir()
    difference = {name: torch.randn(t.shape, generator=generator) for name, t in base.state_dict().items()}
    save_file(difference, root / "delta/model.safetensors")
    (root / "delta/config.json").write_text(json.dumps({"model_type": "sixth-delta", "vocab_size": COUNT}))
    sizes = {"0.weight": (D, TOWER["hidden_size"]), "0.bias": (D,), "2.weight": (D, D), "2.bias": (D,)}
    projector = {f"model.mm_projector.{n}": torch.randn(shape, generator=generator) for n, shape in sizes.items()}
    projector["model.embed_tokens.weight"] = torch.randn(3, D, generator=generator)
    projector["lm_head.weight"] = torch.randn(1, D, generator=generator)
    torch.save(projector, root / "projector.bin")
    return {"llm": root / "llm", "delta": root / "delta", "projector": root / "projector.bin"}


def wanted(places: dict[str, Path]) -> dict[str, torch.Tensor]:
    base = AutoModelForCausalLM.from_pretrained(places["llm"]).state_dict()
    difference = load_file(places["delta"] / "model.safetensors")
    return {name: tensor + difference[name] for name, tensor in base.items()}


def assert_stacked(model, places) -> None:
    sums, projector = wanted(places), torch.load(places["projector"], weights_only=True)
    state = model.language_model.state_dict()
    for name, tensor in sums.items():
        assert torch.equal(state[name][: len(tensor)], tensor), name
    ids = list(model.config.added_tokens.values())
    assert ids == [COUNT, COUNT + 1, COUNT + 2]
    assert torch.equal(state["model.embed_tokens.weight"][ids], projector["model.embed_tokens.weight"])
    assert torch.equal(state["lm_head.weight"][ids[2:]], projector["lm_head.weight"])
    assert torch.equal(model.connectors["visual"][0].weight, projector["model.mm_projector.0.weight"])


def test_base_differences_and_projector_with_rows_make_the_model(places, tmp_path):
    below = [str(places["llm"]), str(places["delta"])]
    loaded = load_checkpoint(places["projector"], base=below, system=NAME)
    assert_stacked(loaded.model, places)
    assert set(TEXTS) <= set(loaded.processor.tokenizer.get_vocab())
    steps = explain(recognise_checkpoint(places["projector"], base=below, system=NAME)).steps
    assert [(step.what, step.keys, step.fills) for step in steps] == [
        ("base", 12, ("language_model",)),
        ("difference", 12, ("language_model",)),
        ("connectors", 6, ("connectors.visual", "language_model.added_tokens")),
    ]
    save_checkpoint(loaded, tmp_path / "ours")
    assert_stacked(load_checkpoint(tmp_path / "ours").model, places)


def test_recipe_starts_from_the_stack(places):
    recipe = Recipe(
        system=NAME,
        checkpoint=str(places["projector"]),
        language_model=str(places["llm"]),
        stages=(
            {
                "name": "first",
                "data": ({"annotations": "x.json"},),
                "train": {"connectors": 1e-3},
                "global_batch_size": 1,
            },
        ),
    )
    assert starting_config(recipe, 0).text_config.vocab_size == COUNT + 3
    state = torch.load(places["projector"], weights_only=True)
    model = build_model(recipe)
    assert torch.equal(model.get_input_embeddings().weight[COUNT:], state["model.embed_tokens.weight"])
    over = recipe.model_copy(update={"checkpoint": str(places["delta"])})
    assert torch.equal(build_model(over).get_output_embeddings().weight[:COUNT], wanted(places)["lm_head.weight"])
    assert starting_config(over, 0).text_config.vocab_size == COUNT + 3


def test_other_order_is_refused(places):
    with pytest.raises(UserError, match="delta: holds differences to a language model; name it directly after that"):
        load_checkpoint(places["delta"], base=[str(places["llm"]), str(places["projector"])], system=NAME)
