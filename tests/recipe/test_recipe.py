"""Recipes: what is read, what is refused and how the message reads."""

import re
from pathlib import Path

import pytest

from vidtune.errors import UserError
from vidtune.recipe.files import dump_recipe, load_recipe
from vidtune.recipe.fingerprint import recipe_fingerprint
from vidtune.recipe.shipped import list_recipes
from vidtune.recipe.values import component_matches

RECIPE = """\
system: any_system
language_model: {model_type: llama, rms_norm_eps: 1e-5}
stages:
  - name: align
    train: {connectors: 1e-3}
    data: [{annotations: ${ROOT}/a.json, media: ${ROOT}}]
    global_batch_size: 8
  - name: instruct
    from: align
    train: {towers.video: 1e-5, language_model: {learning_rate: 2e-5, lora: {rank: 8}}}
    data: [{annotations: "${ROOT}/b.json"}]
    global_batch_size: ${BATCH:-4}
benchmarks: [msvd_qa, {name: tgif_qa, data: /data}]
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ROOT", "/data: {root} #1")
    monkeypatch.delenv("BATCH", raising=False)

    def write_recipe(text: str = RECIPE) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write_recipe


def refusal(path: Path | str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_variables_numbers_and_short_forms_are_read(write):
    recipe = load_recipe(write())
    assert recipe.stages[0].data[0].annotations == "/data: {root} #1/a.json"
    assert recipe.stages[0].data[0].media == "/data: {root} #1"
    assert recipe.stages[1].global_batch_size == 4
    assert recipe.language_model == {"model_type": "llama", "rms_norm_eps": 1e-5}
    assert recipe.stages[0].train["connectors"].learning_rate == 1e-3
    assert recipe.stages[1].train["language_model"].lora.rank == 8
    assert [entry.name for entry in recipe.benchmarks] == ["msvd_qa", "tgif_qa"]


def test_missing_variable_is_named_with_file_and_line(write, monkeypatch):
    path = write()
    monkeypatch.delenv("ROOT")
    assert refusal(path).startswith(f"{path}:6:26: the variable ROOT is not set")
    assert load_recipe(path, expand=False).stages[0].data[0].media == "${ROOT}"


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("global_batch_size: 8", "global_batchsize: 8", 7, ["'global_batchsize'", "align", "'global_batch_size'"]),
        ("system:", "sistem:", 1, ["'sistem'", "'system'"]),
        ("lora: {rank: 8}", "lora: {rnak: 8}", 10, ["'rnak'", "'rank'"]),
        ("media: ${ROOT}}", "medium: ${ROOT}}", 6, ["'medium'", "'media'"]),
        ("data: /data}", "dta: /data}", 13, ["'dta'", "'data'"]),
        ("connectors: 1e-3", "connector: 1e-3", 5, ["'connector' is no component", "connectors.NAME"]),
        ("connectors: 1e-3", "connectors: fast", 5, ["valid number", "'fast'"]),
        ("from: align", "from: aling", 9, ["'aling'", "'align'", "no earlier stage"]),
        ("name: instruct", "name: align", 8, ["two stages are named 'align'"]),
        ("from: align", "from: instruct", 9, ["'instruct' starts from 'instruct', which is itself"]),
        ("name: align", "name: align\n    from: instruct", 5, ["starts from 'instruct'", "not trained before it"]),
        ("lora: {rank: 8}", "lorra: {rank: 8}", 10, ["'lorra'", "'lora'"]),
        ("lora: {rank: 8}", "lora: true", 10, ["train.language_model.lora: expected a mapping", "not True"]),
        ("connectors: 1e-3", "connectors: true", 5, ["learning_rate: true is no number"]),
        ("${BATCH:-4}", "yes", 12, ["global_batch_size: true is no number"]),
        ("${BATCH:-4}", "4\n    epochs: .inf", 13, ["epochs", "finite"]),
        ("${BATCH:-4}", "4\n    weight_decay: 1.0e+30", 13, ["weight_decay", "less than or equal to 10"]),
        ("${BATCH:-4}", "4\n    betas: [0.9, 1.0]", 13, ["betas.1", "less than 1"]),
        ("${BATCH:-4}", "4\n    betas: [.nan, 0.9]", 13, ["betas.0"]),
        ("${BATCH:-4}", '4\n    prompt: ""', 13, ["prompt", "at least 1 character"]),
        ("data: /data}", "data: /data, limit: true}", 13, ["limit: true is no number"]),
        ("media: ${ROOT}}", "media: ${ROOT}, weight: 1.0e+13}", 6, ["weight", "10000"]),
        ("{connectors: 1e-3}", "connectors", 5, ["stages.align.train: expected a mapping", "'connectors'"]),
        ("{connectors: 1e-3}", "{}", 5, ["stages.align.train: must not be empty"]),
        (
            "system:",
            "packages: [pydantic, not-there==0.3]\nsystem:",
            1,
            ["the package 'not-there==0.3'", "is not installed: pip install 'not-there==0.3'"],
        ),
        (
            "system:",
            "packages: [pydantic<1]\nsystem:",
            1,
            ["the package 'pydantic<1'", "is here as ", "pip install 'pydantic<1'"],
        ),
        ("system:", "packages: [7]\nsystem:", 1, ["7 is no name of a package"]),
        ("system:", "trackers: wandb\nsystem:", 1, ["trackers: expected a list, not 'wandb'"]),
        ("system:", "trackers: [wandbb]\nsystem:", 1, ["trackers.0", "'wandb'", "'wandbb'"]),
        ("name: align", "name: ../up", 4, ["stages.../up.name", "match pattern"]),
        ("${BATCH:-4}", "${BATCH:-0}", 12, ["stages.instruct.global_batch_size", "greater than 0", "not 0"]),
        ("    from: align\n", "    from: align\n    from: align\n", 10, ["'from' is given twice", "line 9"]),
    ],
)
def test_mistake_is_refused_with_its_line(write, old, new, line, words):
    assert old in RECIPE
    path = write(RECIPE.replace(old, new, 1) if "from: aling" not in new else RECIPE.replace(old, new))
    message = refusal(path)
    assert all(word in message for word in words), message
    place = re.match(rf"{re.escape(str(path))}:{line}:(?P<column>\d+): ", message)
    assert place, message
    if unknown := re.search(r"unknown key '(\w+)'", message):
        assert path.read_text().splitlines()[line - 1][int(place["column"]) - 1 :].startswith(unknown[1])


def test_wrong_syntax_is_refused_with_line_and_column(write):
    path = write(RECIPE.replace("train: {connectors: 1e-3}", "train: {connectors: 1e-3"))
    assert refusal(path).startswith(f"{path}:6:9: not valid YAML")


def test_a_file_that_is_no_mapping_is_refused(write):
    assert "a recipe is a mapping" in refusal(write("- a\n- b\n"))
    assert "a recipe is a mapping" in refusal(write(""))


def test_alias_inside_its_anchor_is_refused(write):
    assert "inside its own anchor" in refusal(write("towers: &a {b: *a}\n"))


def test_merge_keys_share_settings_between_stages(write):
    text = RECIPE.replace("  - name: align", "  - &base\n    name: align").replace(
        "    from: align", "    <<: *base\n    name: instruct\n    from: align"
    )
    recipe = load_recipe(
        write(text.replace("  - name: instruct\n", "  -\n").replace("global_batch_size: ${BATCH:-4}", ""))
    )
    assert [stage.global_batch_size for stage in recipe.stages] == [8, 8]


def test_overrides_reach_stages_by_name_and_index(write):
    recipe = load_recipe(
        write(),
        [
            "seed=1",
            "stages.instruct.epochs=0.5",
            "stages.0.max_steps=3",
            "stages.instruct.train.towers.video=3e-5",
            "stages.align.train.towers.image=4e-5",
            "stages.align.media.image.pad_to_square=true",
            "benchmarks.msvd_qa.limit=10",
            "connectors.visual={depth: 2}",
        ],
    )
    align, instruct = recipe.stages
    assert (recipe.seed, instruct.epochs, align.max_steps, recipe.benchmarks[0].limit) == (1, 0.5, 3, 10)
    assert instruct.train["towers.video"].learning_rate == 3e-5
    assert align.train["towers.image"].learning_rate == 4e-5
    assert align.media == {"image": {"pad_to_square": True}}
    assert recipe.connectors == {"visual": {"depth": 2}}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.instruct.epoch=2", ["unknown key 'epoch' in stages.instruct", "'epochs'"]),
        ("stages.instuct.epochs=2", ["'instuct'", "'instruct'"]),
        ("stages.7.epochs=2", ["'7'", "2 items"]),
        ("stages.instruct.epochs=none", ["stages.instruct.epochs", "'none'"]),
        ("seed", ["expected key=value"]),
        ("seed.x=1", ["seed", "valid integer"]),
        ("system.x=1", ["'any_system' and has no keys"]),
        ("seed={", ["not valid YAML"]),
    ],
)
def test_bad_override_is_named(write, override, words):
    message = refusal(write(), override)
    assert all(word in message for word in words), message
    assert message.startswith(f"override '{override}'"), message


def test_unknown_recipe_names_the_nearest():
    assert repr(list_recipes()[0]) in refusal(list_recipes()[0][:-1])
    assert "no such recipe file" in refusal("folder/none.yaml")


def test_dumped_recipe_reads_back_equal(write, tmp_path):
    recipe = load_recipe(write())
    (tmp_path / "dumped.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "dumped.yaml") == recipe


def test_fingerprint_names_the_training_not_how_it_is_run(write):
    path = write()
    known = recipe_fingerprint(load_recipe(path))
    same = ["stages.align.workers=7", "stages.align.save_every=1", "benchmarks=[]", "generation={max_new_tokens: 1}"]
    assert recipe_fingerprint(load_recipe(path, same)) == known
    for other in (
        "seed=7",
        "stages.align.epochs=2",
        "stages.instruct.train.language_model=3e-5",
        "connectors.projector.depth=1",
    ):
        assert recipe_fingerprint(load_recipe(path, [other])) != known


def test_a_group_name_matches_all_its_components():
    assert component_matches("connectors", "connectors.projector")
    assert component_matches("towers.*", "towers.video")
    assert component_matches("*", "language_model")
    assert not component_matches("towers.video", "towers.image")
    assert not component_matches("language_model", "language_model_2")


PINNED = "system: any\ncheckpoint: org/model\nrevision: v1\n"


def test_revision_pins_the_checkpoint(write):
    recipe = load_recipe(write(PINNED))
    assert (recipe.checkpoint, recipe.starting_place) == ("org/model", "org/model@v1")
    assert load_recipe(write(PINNED.replace("revision: v1\n", ""))).starting_place == "org/model"
    assert load_recipe(write()).starting_place is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("checkpoint: org/model", "language_model: org/model", "belongs to a checkpoint"),
        ("org/model", "org/model@v2", "names a revision already"),
        ("v1", '""', "at least 1 character"),
    ],
)
def test_a_revision_without_a_place_to_pin_is_refused(write, old, new, words):
    path = write(PINNED.replace(old, new))
    message = refusal(path)
    assert words in message
    assert message.startswith(f"{path}:3:1: "), message


def test_fingerprints_written_before_stay(write):
    """Runs of earlier releases resume: keys that came later do not count where they are not set."""
    assert recipe_fingerprint(load_recipe(write())) == "3e0ecaad42b0f8c8"
    pinned, free = load_recipe(write(PINNED)), load_recipe(write(PINNED.replace("revision: v1\n", "")))
    assert recipe_fingerprint(pinned) != recipe_fingerprint(free)
