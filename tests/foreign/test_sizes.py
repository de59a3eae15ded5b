"""Sizes that nothing has, in recipes and in config.json: one line that names the place, before anything is made."""

import json
import subprocess
import sys

import pytest

from vidtune.checkpoints.files.folder import CheckpointFiles
from vidtune.cli.main import run
from vidtune.errors import UserError
from vidtune.foreign.sizes import absurd_size, said_of
from vidtune.recipe.files import load_recipe

RECIPE = """system: video_llava
language_model: {{model_type: llama, {model}}}
towers: {{video: {{{tower}}}}}
stages:
- {{name: align, train: {{connectors: 1}}, global_batch_size: 2, data: [{{annotations: a.json}}], media: {{{media}}}}}
"""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"media": "video: {num_frames: 1e12}"},
            r"r\.yaml:5:\d+: stages\.0\.media\.video\.num_frames is 10+",
        ),
        ({"tower": "num_hidden_layers: 1000000000"}, r"r\.yaml:3:\d+: towers\.video\.num_hidden_layers is 1000000000"),
        ({"tower": "patch_size: -1"}, r"towers\.video\.patch_size is -1; expected a number from 0 on"),
        ({"tower": "image_size: [28, 1e300]"}, r"towers\.video\.image_size\.1 is 1e\+300; expected at most 1,000,000"),
        ({"model": "vocab_size: 1000000000000"}, r"language_model\.vocab_size is 10+; expected at most 100,000,000"),
    ],
)
def test_a_size_that_nothing_has_is_refused_with_its_line(changes, said, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.format(**{"model": "", "tower": "", "media": "", **changes}))
    with pytest.raises(UserError, match=said):
        load_recipe(path)


def test_layers_that_are_counted_from_the_end_and_limits_of_tokenizers_are_no_sizes():
    assert absurd_size({"feature_layers": [-2, -5], "tokenizer_model_max_length": 1e30, "rope_theta": 1e9}) is None
    assert absurd_size({"inner": [{"n_layer": 10**5}]}) == (("inner", 0, "n_layer"), 10**5, 10_000)


def test_nan_is_no_value_and_huge_whole_numbers_are_compared_too():
    place, value, _ = absurd_size({"text_config": {"rms_norm_eps": float("nan")}})
    assert place == ("text_config", "rms_norm_eps") and said_of(value, 0) == "is NaN; expected a number"
    assert absurd_size({"anything": 10**400, "time_step_limit": [0.0, float("inf")]}) is None
    assert absurd_size({"hidden_size": 10**400}) == (("hidden_size",), 10**400, 10**6)


def test_a_config_names_the_size_that_nothing_has(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"hidden_size": 10**12}}))
    with pytest.raises(UserError, match=r"config\.json: text_config\.hidden_size is 1000000000000; expected at most"):
        CheckpointFiles(tmp_path).require_config()


def test_a_mistake_that_is_found_after_reading_names_the_recipe(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "mine.yaml").write_text(
        RECIPE.format(model="", tower="", media="").replace("{name:", "{prompt: x, name:")
    )
    for command in (
        ["train", "--dry-run"],
        ["train", "--out", "run"],
        ["data", "check"],
        ["data", "stats"],
        ["doctor"],
    ):
        assert run([*command, "mine.yaml"]) == 2
        assert "error: mine.yaml: stage 'align': no prompt format 'x'" in capsys.readouterr().err, command
    (tmp_path / "mine.yaml").write_text("system: nothing\nlanguage_model: x\n")
    assert run(["train", "mine.yaml", "--out", "run"]) == 2
    assert capsys.readouterr().err.startswith("error: mine.yaml: ")


def test_training_says_a_mistake_in_a_recipe_before_torch_is_imported(tmp_path):
    (tmp_path / "r.yaml").write_text("system: {a: &a [1, 2], b: *c}")
    train = "run(['train', 'r.yaml', '--out', 'o'])"
    program = f"import sys; from vidtune.cli.main import run; print({train}, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"] and "r.yaml:1:" in done.stderr
