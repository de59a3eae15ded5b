"""Runs that train the rows of added tokens: alone, beside LoRA, resumed, and what their results hold."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from launched import Launcher, largest_difference, printed
from marked_system import MARKED, marked_system
from safetensors.torch import load_file
from training_world import mixed_samples
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from vidtune.checkpoints.build import build_config, build_model
from vidtune.checkpoints.load import load_checkpoint
from vidtune.errors import UserError
from vidtune.recipe.types import Recipe, Train
from vidtune.training.estimates.costs import stage_costs
from vidtune.training.run import train_stages
from vidtune.training.saving import checkpoints
from vidtune.training.signals import TrainingInterrupted

ROWS = "language_model.added_tokens"
EMBEDDING, HEAD = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
LORA = {"learning_rate": 2e-2, "lora": {"rank": 4, "alpha": 8, "dropout": 0.2}}


@pytest.fixture(autouse=True, scope="module")
def system() -> Iterator[None]:
    with marked_system():
        yield


def samples() -> list[dict[str, Any]]:
    """Videos between marks; the end mark is answered too."""
    found = mixed_samples()
    for sample in found:
        question, answer = sample["conversations"]
        question["value"] = question["value"].replace("<video>", "<vid_start><video><vid_end>")
        answer["value"] += "<vid_end>"
    return found


def recipe_of(make_recipe, stages: list[dict[str, Any]], **changes: Any) -> Recipe:
    common = {"max_steps": 3, "workers": 0, "warmup": 0.0, "schedule": "constant"}
    made = make_recipe(samples(), stages=[{**common, **stage} for stage in stages])
    return made.model_copy(update={"system": MARKED, **changes})


def run(recipe: Recipe, out: Path, **options: Any) -> Path:
    return train_stages(recipe, out, progress=False, **options)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_only_the_rows_change_and_the_optimizer_knows_nothing_else(make_recipe, tmp_path: Path, tied: bool) -> None:
    stage = {"name": "rows", "train": {ROWS: 1e-2}, "weight_decay": 0.5, "save_every": 2}
    recipe = recipe_of(make_recipe, [stage])
    recipe = recipe.model_copy(update={"language_model": {**recipe.language_model, "tie_word_embeddings": tied}})
    before = build_model(recipe)
    after = load_checkpoint(run(recipe, tmp_path / "out")).model
    ids = list(before.config.added_tokens.values())
    untouched = [k for k in range(before.config.text_config.vocab_size) if k not in ids]
    for name, weight in before.named_parameters(remove_duplicate=False):
        now = after.get_parameter(name)
        if name in (EMBEDDING, HEAD):
            assert torch.equal(weight[untouched], now[untouched]), name
        else:
            assert torch.equal(weight, now), name
    moved = [not torch.equal(before.get_parameter(EMBEDDING)[k], after.get_parameter(EMBEDDING)[k]) for k in ids]
    answered = [not torch.equal(before.get_parameter(HEAD)[k], after.get_parameter(HEAD)[k]) for k in ids]
    assert all(moved) and answered == [tied, tied, True]  # weight decay moves <vid_patch>, which no sample has
    held = dcp.FileSystemReader(checkpoints(tmp_path / "out/rows")[-1]).read_metadata().state_dict_metadata
    moments = [entry for name, entry in held.items() if name.startswith("optimizer.") and "exp_avg" in name]
    sizes = [tuple(entry.size) for entry in moments]
    assert set(sizes) == ({(3, 32)} if tied else {(3, 32), (1, 32)})


def test_rows_beside_lora_are_in_the_bundle_and_the_next_stage_stands_on_it(make_recipe, tmp_path: Path) -> None:
    train = {ROWS: 1e-2, "connectors": 1e-3, "language_model": LORA}
    stages = [{"name": "tune", "train": train}, {"name": "more", "train": {"language_model": LORA}}]
    recipe = recipe_of(make_recipe, stages, language_model=str(written_language_model(make_recipe, tmp_path)))
    run(recipe, tmp_path / "out")
    held = load_file(tmp_path / "out/tune/final/other_weights.safetensors")
    ids = list(build_model(recipe).config.added_tokens.values())
    assert {name for name in held if name.startswith("language_model")} == {f"{ROWS}.input", f"{ROWS}.output"}
    start, tuned, more = (
        build_model(recipe),
        *(load_checkpoint(tmp_path / "out" / name / "final").model for name in ("tune", "more")),
    )
    for model in (tuned, more):
        embedding = model.get_parameter(EMBEDDING)
        assert torch.equal(embedding[ids], held[f"{ROWS}.input"])
        assert torch.equal(model.get_parameter(HEAD)[ids[2:]], held[f"{ROWS}.output"])
        assert torch.equal(embedding[: ids[0]], start.get_parameter(EMBEDDING)[: ids[0]])
    layer = "language_model.model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(tuned.get_parameter(layer), more.get_parameter(layer))


def written_language_model(make_recipe, folder: Path) -> Path:
    """A folder with a language model whose vocabulary is that of its own tokenizer."""
    recipe = make_recipe()
    tokenizer = AutoTokenizer.from_pretrained(recipe.tokenizer)
    torch.manual_seed(3)
    config = AutoConfig.for_model(**recipe.language_model, vocab_size=len(tokenizer))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "llm")
    tokenizer.save_pretrained(folder / "llm")
    return folder / "llm"


@pytest.mark.parametrize(
    "beside",
    [
        pytest.param({}, marks=pytest.mark.whole),
        {"language_model": LORA},
        pytest.param({"language_model": 1e-3}, marks=pytest.mark.whole),
    ],
    ids=["alone", "lora", "whole"],
)
def test_a_resumed_run_equals_one_never_stopped(make_recipe, tmp_path: Path, beside: dict[str, Any]) -> None:
    recipe = recipe_of(make_recipe, [{"name": "rows", "train": {ROWS: 1e-2, **beside}}])
    with pytest.raises(TrainingInterrupted):
        run(recipe, tmp_path / "stopped", stop_after=2)
    whole, resumed = run(recipe, tmp_path / "out"), run(recipe, tmp_path / "stopped")
    files = [path.relative_to(whole) for path in whole.rglob("*.safetensors")]
    for file in files:
        other = load_file(resumed / file)
        assert all(torch.equal(tensor, other[name]) for name, tensor in load_file(whole / file).items()), file
    rows = load_checkpoint(whole).model.get_parameter(EMBEDDING)
    start = build_model(recipe).get_parameter(EMBEDDING)
    assert not torch.equal(rows, start)


def test_rows_with_a_rate_of_their_own_beside_a_language_model_that_trains(make_recipe, tmp_path: Path) -> None:
    """With the same rate they move as rows of the matrix do."""
    both = recipe_of(make_recipe, [{"name": "rows", "train": {ROWS: 1e-3, "language_model": 1e-3}}])
    plain = recipe_of(make_recipe, [{"name": "rows", "train": {"language_model": 1e-3}}])
    one, other = (load_checkpoint(run(r, tmp_path / name)).model for name, r in (("both", both), ("plain", plain)))
    for name, weight in one.named_parameters():
        if name != HEAD:  # the head's rows of <vid_start> and <vid_patch> learn in both
            torch.testing.assert_close(weight, other.get_parameter(name), atol=2e-5, rtol=1e-3, msg=name)


@pytest.mark.whole  # a run of two ranks that goes on with one, below, is in every run of the tests
@pytest.mark.parametrize(("parallel", "tied"), [("ddp", True), ("fsdp2", False), ("fsdp2", True)])
def test_two_ranks_equal_one_process(
    make_recipe, launcher: Launcher, tmp_path: Path, parallel: str, tied: bool
) -> None:
    stage = {"name": "rows", "train": {ROWS: 1e-2, "connectors": 1e-3}, "max_tokens_per_batch": 100}
    recipe = recipe_of(make_recipe, [{**stage, "weight_decay": 0.1, "max_grad_norm": 0.5, "parallel": parallel}])
    recipe = recipe.model_copy(update={"language_model": {**recipe.language_model, "tie_word_embeddings": tied}})
    assert launcher.run(recipe, tmp_path / "two", 2) == [0, 0], printed(tmp_path / "two")
    one = run(recipe, tmp_path / "one")
    assert largest_difference(one, tmp_path / "two/rows/final") <= 1e-6
    assert not torch.equal(
        load_checkpoint(one).model.get_parameter(EMBEDDING), build_model(recipe).get_parameter(EMBEDDING)
    )


def test_a_run_of_two_ranks_with_lora_goes_on_with_one(make_recipe, launcher: Launcher, tmp_path: Path) -> None:
    stage = {"name": "rows", "train": {ROWS: 1e-2, "language_model": LORA}, "max_tokens_per_batch": 100}
    recipe = recipe_of(make_recipe, [stage])
    codes = launcher.run(recipe, tmp_path / "two", 2, arguments={"stop_after": 2})
    assert len(set(codes)) == 1 and codes[0] not in (0, 1), printed(tmp_path / "two")
    assert largest_difference(run(recipe, tmp_path / "one"), run(recipe, tmp_path / "two")) <= 1e-6


def test_the_estimates_count_the_rows_and_the_way_back_to_them(make_recipe) -> None:
    config = build_config(recipe_of(make_recipe, []))
    frozen = stage_costs(config, {"connectors.visual": Train(learning_rate=1.0)}, "float32")
    rows = stage_costs(config, {ROWS: Train(learning_rate=1.0)}, "float32")
    assert rows.weights[ROWS].trained == (3 + 1) * 32 and ROWS not in frozen.weights
    assert rows.weights["language_model"] == frozen.weights["language_model"]
    assert rows.token.flops == frozen.token.flops  # both need the backward pass of the whole language model


def test_the_rows_are_refused_where_there_are_none_or_with_lora(make_recipe, tmp_path: Path) -> None:
    rows = [{"name": "rows", "train": {ROWS: 1e-2}}]
    with pytest.raises(UserError, match=f"stage 'rows': train names no component by '{ROWS}'; .*'?language_model"):
        run(recipe_of(make_recipe, rows).model_copy(update={"system": "video_llava"}), tmp_path / "other")
    adapted = [{"name": "rows", "train": {ROWS: LORA}}]
    with pytest.raises(UserError, match=rf"stage 'rows': train.{ROWS}.lora: has no linear layers to adapt"):
        run(recipe_of(make_recipe, adapted), tmp_path / "lora")
