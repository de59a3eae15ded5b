"""``vidtune answer`` says that an answer is empty, and why, and shows which lines are of an answer."""

from pathlib import Path

import pytest
from tiny_checkpoint import always_say, write_checkpoint

from vidtune.cli.answer import below
from vidtune.cli.main import run


def test_an_empty_answer_is_said_to_be_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(always_say(write_checkpoint(tmp_path / "model"), "", after=":"))
    assert run(["answer", folder, "--question", "Who?", "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "\n"
    assert "the answer to 'Who?' is empty: the model ended it before the first word" in captured.err


def test_every_line_of_an_answer_stands_below_its_question() -> None:
    assert below("Who?", "a man\na dog") == "Who?\n  a man\n  a dog"
