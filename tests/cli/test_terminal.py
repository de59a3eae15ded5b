"""What reaches the terminal, and Ctrl-C at any moment: one line and exit code 130."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import ModuleType

import pytest
from rich.console import Console

from vidtune import __main__ as module
from vidtune.cli import main as main_module
from vidtune.cli.main import main
from vidtune.cli.terminal.shown_text import shown_text, warn
from vidtune.machine.files import atomic_file
from vidtune.machine.progress import ProgressDisplay
from vidtune.spelling import one_line, visible

EVIL = "a\x1b]0;owned\x07b\x1b[2J\x9bc\rd"
SHOWN = r"a\x1b]0;owned\x07b\x1b[2J\x9bc\x0dd"


@pytest.fixture
def can_be_interrupted() -> Iterator[None]:
    """A process that a shell starts in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return left.value.code, *capsys.readouterr()


def test_control_characters_are_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str], tmp_path):
    assert visible(f"{EVIL}\n\té") == f"{SHOWN}\n\té"
    assert visible("a\u202egpj.exe\u2066") == r"a\u202egpj.exe\u2066"  # which would turn the name around
    code, out, err = ended(capsys, "recipes", "show", EVIL)
    assert (code, out) == (2, "") and "owned" in err
    path = tmp_path / f"{EVIL}.yaml"
    path.write_text(f"# {EVIL}\nsystem: [\n")
    code, out, err = ended(capsys, "recipes", "show", str(path))
    assert not {"\x1b", "\x07", "\x9b", "\r"} & {*out, *err}
    with shown_text():
        print(EVIL)
        sys.stderr.writelines([EVIL])
    assert capsys.readouterr() == (f"{SHOWN}\n", SHOWN)


@pytest.mark.parametrize("text", ["a\nb", "a\n  b\tc", "a\u2028b\rc"])
def test_a_message_about_a_user_s_own_text_stays_one_line(capsys: pytest.CaptureFixture[str], tmp_path, text: str):
    for arguments in (["recipes", "show", text], ["judge", text], ["recipes", "list", text]):
        code, _, err = ended(capsys, *arguments)
        assert code == 2 and len(err.splitlines()) == len(err.split("\n")) - 1
        assert err.splitlines()[-1].lower().startswith("error: ") and r"b" in err.splitlines()[-1]
    (tmp_path / "mine.jsonl").write_text("[1]\n{}\n")  # wrong lines stand one below the other
    code, _, err = ended(capsys, "benchmarks", "check", str(tmp_path / "mine.jsonl"))
    assert code == 2 and [line[:21] for line in err.splitlines()[1:]] == [
        "  mine.jsonl: line 1:",
        "  mine.jsonl: line 2:",
    ]
    warn(text)
    assert capsys.readouterr().err == f"warning: {one_line(text)}\n"


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EMFILE])
def test_what_the_disk_refuses_is_one_line_with_the_file(
    number: int, capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch: pytest.MonkeyPatch
):
    def refused(**_: object) -> int:
        with atomic_file(tmp_path / "out.json") as temporary:
            temporary.touch()
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(main_module, "app", refused)
    code, out, err = ended(capsys, "train")
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith(f"error: {tmp_path / 'out.json'}: ")
    assert not list(tmp_path.iterdir())


def test_a_progress_display_shows_them_too_and_keeps_its_own(capsys: pytest.CaptureFixture[str]):
    with shown_text(), ProgressDisplay(console=Console(stderr=True, force_terminal=True, width=200)) as display:
        display(EVIL, 1, 2, EVIL)
        display.note(EVIL)
    said = capsys.readouterr().err
    assert "\x1b[" in said and said.count(SHOWN) >= 3 and "\x1b]0" not in said and "\x07" not in said


@pytest.mark.usefixtures("can_be_interrupted")
@pytest.mark.parametrize("hidden", [None, ImportError("numpy: import failed"), RuntimeError("interrupted")])
def test_ctrl_c_is_one_line_also_where_a_library_hides_it(
    hidden: Exception | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def press(_: object) -> int:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            if hidden is None:
                raise
            raise hidden from None
        return 0

    monkeypatch.setattr(main_module, "run", press)
    code, out, err = ended(capsys)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # while the process cleans up
    assert (code, out, err) == (130, "", "interrupted; the same command goes on where it stopped\n")


class EarlyTimer(threading.Timer):
    """A timer that is over, once, while it is being started, as on a machine that gives the main thread no time."""

    early = False

    def start(self) -> None:
        if EarlyTimer.early:
            EarlyTimer.early = False
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        super().start()


@pytest.mark.usefixtures("can_be_interrupted")
@pytest.mark.parametrize("early", [False, True])
def test_ctrl_c_where_python_cannot_raise_it_comes_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, early: bool
):
    monkeypatch.setattr(threading, "Timer", EarlyTimer)
    monkeypatch.setattr(EarlyTimer, "early", early)

    class Destructed:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    def press(_: object) -> int:
        one = Destructed()
        del one
        for _ in range(500):
            time.sleep(0.01)
        return 0

    monkeypatch.setattr(main_module, "run", press)
    assert ended(capsys)[::2] == (130, "interrupted; the same command goes on where it stopped\n")


@pytest.mark.parametrize("place", ["begun", "loading"])
def test_the_exit_code_is_130_also_where_ctrl_c_came_into_text_that_is_executed(place: str, tmp_path):
    press = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(5)"
    program = f"""
import signal, sys, types
signal.signal(signal.SIGINT, signal.default_int_handler)
from vidtune import __main__ as module
if {place!r} == "loading":
    class Loading(types.ModuleType):
        def __getattr__(self, name): exec({press!r})
    sys.modules["vidtune.cli.main"] = Loading("main")
else:
    from vidtune.cli import main
    main.run = lambda _: exec({press!r})
module.main()
"""
    (tmp_path / "program.py").write_text(program)
    search = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "program"]  # as a file it is another matter
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=search)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (130, 1), ended.stderr


@pytest.mark.parametrize(("hook", "last"), [("pass", "left"), ("atexit.register(print, 'hook')", "hook")])
def test_a_command_that_has_ended_leaves_at_once_when_all_that_waits_for_its_end_is_done(hook, last, tmp_path):
    program = f"""
import atexit, os, threading, vidtune.cli.main
from vidtune import __main__ as module

class Late(threading.Thread):
    def run(self):
        threading.main_thread().join()
        print("thread")

def run(_):
    atexit.register(print, "registered")
    Late().start()
    print("no line end", end=" ")
    return 3

def left(code, leave=os._exit):
    print("left", flush=True)
    leave(code)

os._exit = left
vidtune.cli.main.run = run
atexit._clear()  # as when the process began
{hook}
module.program()
"""
    (tmp_path / "program.py").write_text(program)
    ended = subprocess.run([sys.executable, tmp_path / "program.py"], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, f"no line end thread\nregistered\n{last}\n", "")


def test_ctrl_c_while_the_modules_are_loaded(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    class Loading(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "vidtune.cli.main", Loading("main"))
    with pytest.raises(SystemExit) as left:
        module.main()
    assert (left.value.code, capsys.readouterr().err) == (130, "interrupted before it began\n")


def test_an_error_after_a_command_in_the_same_process_is_no_success(tmp_path):
    program = """
from vidtune import __main__ as module
import vidtune.cli.main
vidtune.cli.main.run = lambda _: 0
try:
    module.main()
except SystemExit:
    pass
raise RuntimeError("later")
"""
    (tmp_path / "program.py").write_text(program)
    ended = subprocess.run([sys.executable, tmp_path / "program.py"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "later" in ended.stderr
