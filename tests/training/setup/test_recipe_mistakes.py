"""What a recipe asks of a model that has no such part: one line and exit code 2, before anything is trained."""

import pytest

from vidtune.cli.main import run
from vidtune.recipe.files import dump_recipe
from vidtune.training.trackers.opening import KINDS, Kind


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.align.train={connectors.visaul: 1e-3}", ["'align'", "'connectors.visaul'", "'connectors.visual'"]),
        ("stages.later.train={towers.vidoe: 1e-3}", ["'later'", "'towers.vidoe'", "'towers.video'"]),
        ("stages.align.train={connectors: 1e-3, connectors.*: 1e-4}", ["'align'", "twice"]),
        ("stages.later.from=align2", ["'later'", "'align'"]),
        ("stages.align.from=later", ["'align'", "'later'", "not trained before it"]),
        ("stages.align.train.language_model={learning_rate: 1e-3, lora: {rnak: 4}}", ["'rnak'", "'rank'"]),
        ("stages.later.media={vidoe: {}}", ["'later'", "media.vidoe", "image, video"]),
        ("stages.later.prompt=v2", ["'later'", "'v2'"]),
        ("trackers=[wandb]", ["'wandb'", "pip install 'vidtune[not_installed]'"]),
    ],
)
def test_it_is_one_line_and_nothing_is_trained(make_recipe, tmp_path, capsys, monkeypatch, override, words):
    monkeypatch.setitem(KINDS, "wandb", Kind("not_installed", "", ""))
    path = tmp_path / "mine.yaml"
    path.write_text(dump_recipe(make_recipe(stages=[{}, {"name": "later"}])))
    assert run(["train", str(path), "--out", str(tmp_path / "out"), override]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1, message
    assert all(word in message for word in words), message
    assert not list(tmp_path.glob("out/*/log.jsonl"))


def test_schema_is_written_with_the_line_that_names_it(tmp_path, capsys):
    target = tmp_path / "recipe.schema.json"
    assert run(["recipes", "schema", "--out", str(target)]) == 0
    assert f"# yaml-language-server: $schema={target}" in capsys.readouterr().out
    assert run(["recipes", "schema"]) == 0
    assert capsys.readouterr().out == target.read_text()
