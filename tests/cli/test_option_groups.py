"""Options of commands as values: every field of a dataclass is an option, and the command gets the value."""

import json
import re
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

import vidtune
from vidtune.checkpoints.report import LoadReport
from vidtune.cli.main import run
from vidtune.cli.options.asking import LoadingOptions
from vidtune.cli.options.groups import option_groups
from vidtune.cli.options.loading import layer_program_of
from vidtune.errors import UserError


@dataclass(frozen=True)
class Size:
    width: Annotated[int, typer.Option(min=1, help="In pixels.")]
    names: Annotated[list[str] | None, typer.Option("--name")] = None
    tall: Annotated[bool, typer.Option("--tall")] = False


def test_a_command_gets_its_options_as_values():
    seen = []

    @option_groups
    def draw(place: Annotated[str, typer.Argument()], size: Size, *, colour: str = "red") -> None:
        """Draw."""
        seen.append((place, size, colour))

    app = typer.Typer(rich_markup_mode=None)
    app.command()(draw)
    run = CliRunner().invoke
    assert run(app, ["here", "--width", "3", "--name", "a", "--name", "b", "--colour", "blue"]).exit_code == 0
    assert seen == [("here", Size(3, ["a", "b"], False), "blue")]
    assert run(app, ["here"]).exit_code == 2 and run(app, ["here", "--width", "0"]).exit_code == 2
    shown = run(app, ["--help"]).output
    assert "Draw." in shown and "In pixels." in shown
    assert shown.index("--width") < shown.index("--tall") < shown.index("--colour")


def test_a_layer_program_is_json_or_a_file_of_it(tmp_path):
    steps = [{"after": 1, "drop": ["video"], "keep": 0.5}]
    (tmp_path / "steps.json").write_text(json.dumps(steps))
    assert layer_program_of(json.dumps(steps)) == layer_program_of(str(tmp_path / "steps.json")) == steps
    assert layer_program_of(None) is None and layer_program_of("[]") == []
    for wrong, reason in (
        ("none.json", "No such file"),
        ("[3]", "list of steps"),
        ("[{", "not valid JSON"),
        ("{}", "list"),
    ):
        with pytest.raises(UserError, match=rf"^--layer-program {re.escape(wrong)}: .*{reason}"):
            layer_program_of(wrong)


def test_options_of_loading_reach_the_loader_and_some_are_left_to_the_first_checkpoint(monkeypatch, capsys):
    class Loaded:
        report = LoadReport("made up", warnings=["old"])

    asked = []
    monkeypatch.setattr(vidtune, "load", lambda *names, **given: asked.append(given) or Loaded())
    options = LoadingOptions(
        tower=["image=a"], tokenizer="t", dtype="float16", place=["towers=cpu"], layer_program="[]"
    )
    options.load("first")
    options.load("second", name="other", without=("towers", "tokenizer"))
    first, second = asked
    assert (first["towers"], first["tokenizer"], first["dtype"]) == ({"image": "a"}, "t", "float16")
    assert (first["place"], first["layer_program"]) == ({"towers": "cpu"}, [])
    assert first.keys() - second.keys() == {"towers", "tokenizer"}
    assert capsys.readouterr().err.splitlines() == ["warning: old", "warning: other: old"]


def test_serve_takes_what_completes_a_checkpoint(capsys):
    assert run(["serve", "nowhere", "--port", "0", "--tower", "image"]) == 2
    assert "--tower image: write --tower NAME=VALUE" in capsys.readouterr().err
