"""Every key of a recipe has an effect or is an error: no accepted key, and no half of a nested one, is dropped."""

import ast
import json
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from tiny_models import TOKENIZER, TOWER

import vidtune
from vidtune.checkpoints.build import build_config
from vidtune.checkpoints.fit_processor import build_processor
from vidtune.errors import UserError
from vidtune.recipe.fingerprint import EXECUTION_SETTINGS, OTHER_PARTS, recipe_fingerprint
from vidtune.recipe.types import Recipe

LLM = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
LLM |= {"num_attention_heads": 2, "max_position_embeddings": 512}
TOWERS = {"image": TOWER, "video": {**TOWER, "num_frames": 2}}
STAGE = {"name": "s", "train": {"connectors": {"learning_rate": 1e-3, "lora": {"rank": 4}}}, "global_batch_size": 8}
STAGE |= {"contrast": {"text_tower": "a/b"}}
STAGE |= {"data": [{"annotations": "a.json", "media": "m"}]}
WHOLE: dict[str, Any] = {
    "system": "video_llava",
    "language_model": LLM,
    "tokenizer": str(Path(TOKENIZER).parent),
    "towers": TOWERS,
    "distillation": {"video": {"teacher": "a/b"}},
    "stages": [STAGE],
    "benchmarks": [{"name": "msvd_qa"}],
}
# Leaf -> another value than the one in WHOLE, or than its default.
OTHER_VALUES: dict[str, Any] = {
    "system": "video_panda",
    "language_model": "some/model",
    "tokenizer": "other",
    "towers": {},
    "checkpoint": "some/model",
    "revision": "v1",
    "connectors": {"visual": {"depth": 3}},
    "lora_runs": ["run"],
    "features": "auto",
    "seed": 1,
    "world": "events",
    "generation": {"max_new_tokens": 3},
    "trackers": [],
    "packages": ["torch"],
    "distillation.teacher": "c/d",
    "distillation.weight": 2.0,
    "distillation.layers": [0, 1],
    "stages.name": "t",
    "stages.from": "./checkpoint",
    "stages.epochs": 2.0,
    "stages.max_steps": 3,
    "stages.global_batch_size": 4,
    "stages.max_tokens_per_batch": 100,
    "stages.parallel": "fsdp2",
    "stages.prompt": "plain",
    "stages.media": {"video": {"num_frames": 3}},
    "stages.sizes": {"towers.image": {"feature_layer": -1}},
    "stages.objective": "align",
    "stages.contrast.text_tower": "c/d",
    "stages.contrast.tokenizer": "e/f",
    "stages.contrast.projections": {"video": "g/h"},
    "stages.contrast.pool": {"video": "mean"},
    "stages.contrast.loss": "sigmoid",
    "stages.contrast.temperature": 0.5,
    "stages.contrast.bias": 1.0,
    "stages.order": "sequential",
    "stages.schedule": "linear",
    "stages.warmup": 0.5,
    "stages.optimizer": "muon",
    "stages.weight_decay": 0.1,
    "stages.max_grad_norm": 1.0,
    "stages.betas": [0.8, 0.9],
    "stages.precision": "bfloat16",
    "stages.gradient_checkpointing": True,
    "stages.quantize": "4bit",
    "stages.max_length": 10,
    "stages.max_expanded_length": 10,
    "stages.save_every": 1,
    "stages.keep": 2,
    "stages.workers": 0,
    "stages.media_timeout": 1.0,
    "stages.max_excluded": 0.5,
    "stages.log_every": 1,
    "stages.train.learning_rate": 1.0,
    "stages.train.embedding_learning_rate": 1.0,
    "stages.train.frozen_statistics": True,
    "stages.train.lora.rank": 2,
    "stages.train.lora.alpha": 2.0,
    "stages.train.lora.dropout": 0.5,
    "stages.train.lora.layers": ["0"],
    "stages.data.annotations": "b.json",
    "stages.data.format": "jsonl",
    "stages.data.media": "n",
    "stages.data.features": {"video": "f"},
    "stages.data.weight": 2.0,
    "stages.data.sampling": "first:3",
    "stages.data.frame_rate": 2.0,
    "stages.data.roots": {"https://a.org": "a"},
    "stages.data.missing_sets": "leave_out",
    "benchmarks.name": "msrvtt_qa",
    "benchmarks.data": "d",
    "benchmarks.limit": 1,
    "benchmarks.features": {"video": "f"},
    "benchmarks.without": [["image"]],
    "benchmarks.rules": [{"generation": {"seed": 3}}],
}
# Parts of a recipe that change no weight.
WITHOUT_WEIGHT = {*OTHER_PARTS, *(f"stages.{name}" for name in EXECUTION_SETTINGS)}
# Used where the recipe is read: `Recipe.starting_place`, and the packages that have to be installed.
USED_BY_THE_RECIPE = {"revision", "packages"}


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def leaves(model: type[BaseModel] = Recipe, path: str = "") -> dict[str, str]:
    """Dotted key -> name of its field, of every value that holds no further keys of its own."""
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        key = f"{path}{field.alias or name}"
        inner = models_in(field.annotation)
        found |= leaves(inner[0], f"{key}.") if inner else {key: name}
    return found


@cache
def read_outside() -> frozenset[str]:
    """Names of all attributes that some file outside vidtune.recipe reads."""
    root = Path(vidtune.__file__).parent
    files = [file for file in root.rglob("*.py") if "recipe" not in file.relative_to(root).parts[:1]]
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    return frozenset(node.attr for node in nodes if isinstance(node, ast.Attribute))


def changed(key: str, value: Any) -> Recipe:
    document = json.loads(json.dumps(WHOLE))
    here: Any = document
    for part in key.split(".")[:-1]:
        here = here[part]
        if part in ("train", "distillation"):
            here = next(iter(here.values()))
        here = here[0] if isinstance(here, list) else here
    here[key.split(".")[-1]] = value
    if key == "revision":
        document |= {"checkpoint": "some/model"}
    return Recipe.model_validate(document)


def test_every_key_is_known_to_this_test():
    assert set(leaves()) == set(OTHER_VALUES)


@pytest.mark.parametrize("key", leaves())
def test_every_key_is_read_and_tells_runs_apart_unless_it_changes_no_weight(key):
    assert leaves()[key] in read_outside() or key in USED_BY_THE_RECIPE
    recipe = changed(key, OTHER_VALUES[key])
    other = changed("seed", 42) if key != "revision" else changed("revision", "v2")
    assert recipe != other
    free = key in WITHOUT_WEIGHT or key.partition(".")[0] in OTHER_PARTS
    assert (recipe_fingerprint(recipe) == recipe_fingerprint(other)) == free


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"language_model": {**LLM, "hidden_sise": 8}}, "language_model: a llama has no 'hidden_sise'; did you mean"),
        ({"language_model": {**LLM, "rope_scaling": {"rope_type": "odd"}}}, "language_model: rope_scaling: .*'odd'"),
        ({"towers": {**TOWERS, "video": {**TOWER, "num_frame": 2}}}, "num_frame"),
        ({"towers": {"vidoe": TOWER}}, "has no tower 'vidoe'; did you mean 'video'"),
        ({"connectors": {"visual": {"dept": 3}}}, "dept"),
        ({"connectors": {"vizual": {"depth": 3}}}, "has no connector 'vizual'; did you mean 'visual'"),
        ({"distillation": {"vidio": {"teacher": {"image_size": 28}}}}, "vidio"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_no_key_of_a_part_is_dropped(parts, said):
    with pytest.raises(UserError, match=said) as caught:
        build_config(Recipe.model_validate(WHOLE | {"distillation": {}, **parts}))
    assert "\n" not in str(caught.value)


def test_every_size_of_a_part_reaches_the_model():
    config = build_config(Recipe.model_validate(WHOLE | {"distillation": {}}))
    sizes = {"hidden_size": 64, "vocab_size": 700, "num_hidden_layers": 3, "rms_norm_eps": 1e-3, "rope_theta": 5e5}
    text = build_config(Recipe.model_validate(WHOLE | {"distillation": {}, "language_model": LLM | sizes})).text_config
    for key, value in sizes.items():
        assert (text.rope_parameters[key] if key == "rope_theta" else getattr(text, key)) == value
    wide = {name: {**spec, "hidden_size": 64} for name, spec in TOWERS.items()}
    assert (
        build_config(Recipe.model_validate(WHOLE | {"distillation": {}, "towers": wide})).to_dict() != config.to_dict()
    )
    processor = build_processor(config, str(Path(TOKENIZER).parent))
    with pytest.raises(UserError, match=r"media\.video\.num_frame"):
        processor.with_preprocessing({"video": {"num_frame": 2}})
    with pytest.raises(UserError, match=r"media\.vidoe"):
        processor.with_preprocessing({"vidoe": {}})
