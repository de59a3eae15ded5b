"""``vidtune chat``: lines of a pipe are turns; a terminal has a prompt, line editing, Ctrl-C and Ctrl-D."""

import io
import os
import pty
import select
import time
from pathlib import Path

import pytest
from synthetic_clips import write_clip
from tiny_checkpoint import always_say, write_checkpoint
from tiny_targets import write_target_checkpoint

import vidtune
from vidtune.cli.main import main
from vidtune.spelling import visible


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("chat")
    write_checkpoint(found / "model")
    write_clip(found / "a.mp4", num_frames=6)
    write_clip(found / "b c.mp4", num_frames=8, size=(48, 96))
    return found


def piped(monkeypatch: pytest.MonkeyPatch, lines: list[str], *arguments: object) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    with pytest.raises(SystemExit) as left:
        main(["chat", *map(str, arguments), "--device", "cpu", "--max-new-tokens", "8"])
    return left.value.code


def test_lines_of_a_pipe_are_turns_and_answers_are_those_of_the_library(folder, monkeypatch, capsys):
    lines = [
        "What moves?",
        "",
        f'/video "{folder / "b c.mp4"}"',
        "And here?",
        "/frames",
        "/reset",
        "What moves?",
        "/quit",
        "?",
    ]
    assert piped(monkeypatch, lines, folder / "model", "--video", folder / "a.mp4") == 0
    out, err = capsys.readouterr()
    model = vidtune.load(folder / "model", device="cpu")
    talk = model.chat(video=folder / "a.mp4", max_new_tokens=8)
    expected = [str(talk.say("What moves?"))]
    talk.add(video=folder / "b c.mp4")
    expected.append(str(talk.say("And here?")))
    both = [folder / "a.mp4", folder / "b c.mp4"]
    expected.append(str(model.answer("What moves?", video=both, max_new_tokens=8)))
    assert out == "".join(f"{visible(one)}\n" for one in expected)
    assert "<video>" in talk.turns[2].text and expected[1] != expected[0]
    assert f"{folder / 'a.mp4'}: 0.00 s  " in err and f"{folder / 'b c.mp4'}: 0.00 s  " in err


def test_a_wrong_line_is_said_and_the_next_is_taken(folder, monkeypatch, capsys):
    lines = ["/vidoe x", "/qiut", "/video", "/video nowhere.mp4", "/video ~nobody-here/a.mp4", "/frames"]
    lines += ["/box 1,2,3,4@0", "/help", "Who?", "/history"]
    assert piped(monkeypatch, lines, folder / "model") == 2
    out, err = capsys.readouterr()
    said = [line for line in err.split("\n") if line.startswith("error: ")]
    assert all(
        part in line
        for part, line in zip(
            ("'video'", "'quit'", "one file", "no such file", "no such file", "no video", "--box"), said, strict=True
        )
    )
    assert out.count("\n") == 1 and "/reset" in err and "> Who?" in err


def test_escape_codes_of_answers_are_shown(tmp_path, monkeypatch, capsys):
    folder = always_say(write_checkpoint(tmp_path / "model"), "\x1b[2J", after=":")
    assert piped(monkeypatch, ["Who?"], folder) == 0
    assert capsys.readouterr().out == "\\x1b[2J\n"


@pytest.mark.whole
def test_a_box_begins_anew_and_is_named_in_questions(folder, tmp_path, monkeypatch, capsys):
    targeted = write_target_checkpoint(tmp_path / "boxes")
    lines = ["/box 8,8,40,40@99", "/box 8,8,40,40@0.2", "What does <box> do?"]
    assert piped(monkeypatch, lines, targeted, "--video", folder / "a.mp4") == 2  # the first box is not in the video
    out, err = capsys.readouterr()
    target = vidtune.Target([8, 8, 40, 40], 0.2)
    model = vidtune.load(targeted, device="cpu")
    said = model.answer("What does <box> do?", video=folder / "a.mp4", target=target, max_new_tokens=8)
    assert out == f"{visible(said)}\n" and err.count("error: ") == 1


class Terminal:
    """The other end of a terminal."""

    def __init__(self) -> None:
        self.own, other = pty.openpty()
        self.name = os.ttyname(other)
        self.said = ""

    def type(self, text: str) -> None:
        self.said = ""
        os.write(self.own, text.encode())

    def until(self, text: str, again: str = "") -> str:
        """Read until a text comes; all that came since something was typed.

        Args:
            again: a key that is pressed again while nothing comes: Ctrl-C in the moment before readline waits for keys
                shows only with the next one.
        """
        ends = time.monotonic() + 60
        while text not in self.said:
            left = ends - time.monotonic()
            ready, _, _ = select.select([self.own], [], [], min(left, 5.0) if again else left)
            assert ready or (again and left > 0), f"{text!r} never came, only {self.said!r}"
            if ready:
                self.said += os.read(self.own, 4096).decode()
            else:
                os.write(self.own, again.encode())
        return self.said


def test_a_terminal_has_a_prompt_line_editing_and_keys_that_stop_and_leave(launcher, tmp_path):
    folder = always_say(write_checkpoint(tmp_path / "model"), "xyz", after=":", endless=True)
    terminal = Terminal()
    arguments = (terminal.name, str(folder), "--device", "cpu", "--max-new-tokens", "90000")  # it is stopped
    process = launcher.call("terminal_chat:chat", tmp_path / "out", *arguments)
    terminal.until("> ")
    terminal.type("Whoo\x7f?\n")  # the terminal takes the second o back
    terminal.until("xyzxyz")
    terminal.type("\x03")
    terminal.until("forgotten")
    terminal.until("> ")
    terminal.type("/history\n")
    assert "Who" not in terminal.until("> ")
    terminal.type("half a line\x03")
    terminal.until("> ", again="\x03")
    terminal.type("\x1b[A\n")  # the line before: it is kept
    terminal.said = terminal.until("/history").partition("/history")[2]
    terminal.until("> ")
    terminal.type("\x04")
    assert process.exit_codes() == [0]
