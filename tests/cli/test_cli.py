"""The command line: fast to ask for help, one line and exit code 2 for every mistake."""

import errno
import importlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from qa_sets import write_set

import vidtune as vidtune_module
from vidtune.cli.main import run
from vidtune.recipe.shipped import list_recipes
from vidtune.registry import BENCHMARKS

HEAVY = ("torch", "transformers", "av", "numpy", "pydantic", "openai", "rich", "yaml")


def vidtune(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "vidtune", *arguments], capture_output=True, text=True, timeout=120)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr that goes with exit code 2."""
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text((Path(__file__).parents[2] / "src/vidtune/recipe/shipped/video_llava.yaml").read_text())
    return path


def test_help_imports_nothing_heavy():
    code = f"import sys, vidtune.cli.main; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_wrong_with_a_test_set_is_said_before_torch_is_loaded(tmp_path):
    given = ["evaluate", ".", "--benchmark", "msvd_qa", "--data", ".", "--out", "out"]
    heavy = ("torch", "transformers", "openai", "peft", "jinja2")
    code = f"import sys, vidtune.cli.main as m; print(m.run({given}), [one for one in {heavy} if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "2 []\n" and "test_q.json" in done.stderr


@pytest.mark.parametrize("command", ["answer", "chat", "serve"])
def test_the_process_of_the_workers_starts_before_the_model_is_loaded(command, tmp_path, monkeypatch, capsys):
    prepared = []
    (tmp_path / "clip.mp4").touch()
    module = importlib.import_module(f"vidtune.cli.{'' if command == 'answer' else 'serving.'}{command}")
    monkeypatch.setattr(module, "prepare", prepared.append)
    media = ["--port", "0"] if command == "serve" else ["--video", str(tmp_path / "clip.mp4")]
    question = ["--question", "What?"] if command == "answer" else []
    refusal(capsys, command, str(tmp_path / "nowhere"), *media, *question)
    assert prepared == ["vidtune.media.worker"]


def test_help_names_every_command():
    done = vidtune("--help")
    assert done.returncode == 0
    commands = ["demo", "train", "evaluate", "judge", "report", "answer", "convert", "data", "recipes", "systems"]
    for command in [*commands, "benchmarks"]:
        assert f"  {command}  " in done.stdout or f"  {command} " in done.stdout, command


@pytest.mark.parametrize(
    "command",
    ["demo", "train", "evaluate", "judge", "report", "answer", "convert", "data check", "recipes copy", "systems"],
)
def test_every_command_explains_itself(command, capsys):
    assert run([*command.split(), "--help"]) == 0
    assert "Usage: " in capsys.readouterr().out


def test_unknown_option_and_command_exit_with_2(capsys):
    done = vidtune("trian")
    assert done.returncode == 2
    assert done.stderr and "Traceback" not in done.stderr
    for arguments in (["train", "--nonsense"], ["train"]):
        assert run(arguments) == 2
        assert capsys.readouterr().err


def test_version_is_printed(capsys):
    from vidtune import __version__

    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"vidtune {__version__}\n"


def test_typo_in_a_recipe_names_line_and_nearest_key(recipe, tmp_path, capsys):
    recipe.write_text(
        recipe.read_text().replace("learning_rate", "lr").replace("global_batch_size: 256", "batch_size: 256")
    )
    line = next(n for n, text in enumerate(recipe.read_text().splitlines(), 1) if "batch_size: 256" in text)
    message = refusal(capsys, "train", str(recipe), "--out", str(tmp_path / "out"))
    column = recipe.read_text().splitlines()[line - 1].index("batch_size") + 1
    place = f"{recipe}:{line}:{column}: "
    assert f"{place}unknown key 'batch_size' in stages.pretrain; did you mean 'global_batch_size'?" in message
    assert not (tmp_path / "out").exists()


def test_missing_variable_is_named(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("DATA_ROOT", raising=False)
    message = refusal(capsys, "train", str(recipe), "--out", str(tmp_path / "out"))
    assert "the variable DATA_ROOT is not set" in message and f"{recipe}:" in message
    assert not (tmp_path / "out").exists()


def test_unknown_system_names_the_nearest(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    recipe.write_text(recipe.read_text().replace("system: video_llava", "system: video_lava"))
    message = refusal(capsys, "train", str(recipe), "--out", str(tmp_path / "out"))
    assert "'video_lava'" in message and "'video_llava'" in message


def test_missing_annotations_are_named_before_training(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    message = refusal(capsys, "train", str(recipe), "--out", str(tmp_path / "out"))
    assert "llava_image_.json" in message
    assert "llava_image_.json" in refusal(capsys, "data", "check", str(recipe))


def test_unknown_benchmark_names_the_nearest(tmp_path, capsys):
    arguments = ["--benchmark", "msvd", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    message = refusal(capsys, "evaluate", str(tmp_path), *arguments)
    assert "'msvd'" in message and "'msvd_qa'" in message
    assert not (tmp_path / "out").exists()


def test_evaluate_without_a_benchmark_says_how_to_name_one(tmp_path, capsys):
    assert "--benchmark" in refusal(capsys, "evaluate", str(tmp_path), "--out", str(tmp_path / "out"))


def test_unknown_judge_without_endpoint_is_refused_before_anything_is_asked(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    message = refusal(capsys, "judge", str(tmp_path), "--judge", "ruels")
    assert "'ruels'" in message and "--judge-url" in message and "'rules'" in message


def test_folder_without_a_run_is_named(tmp_path, capsys):
    assert str(tmp_path) in refusal(capsys, "judge", str(tmp_path))


def test_missing_video_is_named_before_the_model_is_loaded(tmp_path, capsys):
    arguments = ["--video", str(tmp_path / "none.mp4"), "--question", "What?"]
    assert "none.mp4: no such file" in refusal(capsys, "answer", str(tmp_path), *arguments)


def test_folder_that_is_no_checkpoint_is_named(tmp_path, capsys):
    assert str(tmp_path) in refusal(capsys, "answer", str(tmp_path), "--question", "What?")
    assert str(tmp_path) in refusal(capsys, "convert", str(tmp_path), str(tmp_path / "new"))


def test_unknown_device_and_dtype_are_refused(tmp_path, capsys):
    question = ["--question", "What?"]
    assert "'float8'" in refusal(capsys, "answer", str(tmp_path), *question, "--dtype", "float8")
    assert "'gpu'" in refusal(capsys, "answer", str(tmp_path), *question, "--device", "gpu")


def test_recipes_are_listed_and_shown_without_their_variables(capsys, monkeypatch):
    monkeypatch.delenv("DATA_ROOT", raising=False)
    assert run(["recipes", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in list_recipes())
    assert len({re.match(r"\S+ +\S+ +", line).end() for line in listed.splitlines()}) == 1
    assert run(["recipes", "show", "video_llava"]) == 0
    assert "${DATA_ROOT}" in capsys.readouterr().out
    assert run(["recipes", "show", "video_llava", "stages.pretrain.epochs=3"]) == 0
    assert "epochs: 3.0" in capsys.readouterr().out


def test_copied_recipe_is_the_shipped_one_and_is_never_overwritten(tmp_path, capsys):
    assert run(["recipes", "copy", "video_llava", str(tmp_path)]) == 0
    assert "environment variables: DATA_ROOT" in capsys.readouterr().out
    copied = tmp_path / "video_llava.yaml"
    assert copied.read_text().startswith("# Video-LLaVA")
    copied.write_text("mine")
    assert "exists already" in refusal(capsys, "recipes", "copy", "video_llava", str(copied))
    assert copied.read_text() == "mine"
    assert "'video_llava'" in refusal(capsys, "recipes", "copy", "video_lava", str(tmp_path / "x.yaml"))


def test_systems_and_benchmarks_are_listed(capsys):
    assert run(["systems"]) == 0
    assert "video_llava: Video-LLaVA" in capsys.readouterr().out
    assert run(["benchmarks"]) == 0
    listed = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert listed[0].startswith("msvd_qa  ") and "  13157 questions, ? videos  " in listed[0]
    assert [line.split()[0] for line in listed] == list(BENCHMARKS)
    assert len({line.index(BENCHMARKS[line.split()[0]].title) for line in listed}) == 1


def test_a_test_set_is_checked_before_anything_is_asked(tmp_path, capsys):
    entries = [("a", "what?", "cat"), ("b", " ", "man"), ("c", "<image> who?", " "), ("d", "where?", "park")]
    folder = write_set(tmp_path / "MSVD_Zero_Shot_QA", entries, missing="bcd")
    for file in ("a.mp4", "b.webm", "cc.mp4"):
        (folder / "videos" / file).write_bytes(b"video")
    questions = json.loads((folder / "test_q.json").read_text())
    questions[1]["question_id"] = questions[0]["question_id"]
    (folder / "test_q.json").write_text(json.dumps(questions))
    words = ["benchmarks", "check", "msvd_qa", "--data", str(tmp_path)]
    assert run(words) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == f"msvd_qa: 4 questions about 4 videos, {folder}"
    assert lines[1] == "1 videos found (1 .mp4)"
    assert lines[2:4] == ["1 found under a similar name", "b: videos/b.webm"]
    assert lines[4:6] == ["2 without a file", "c: not videos/c (.mp4, .avi, .mov, .mkv); nearest: videos/cc.mp4"]
    assert lines[7:9] == ["1 repeated ids", "a_0 (2 times)"]
    assert (
        "1 empty questions" in lines and "1 empty answers" in lines and "1 questions that contain a media tag" in lines
    )
    assert lines[-1] == "2 of 4 questions can be asked"
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["similar"] == {"b": "videos/b.webm"} and list(found["missing"]) == ["c", "d"]
    assert found["usable"] == 2 and found["found"] == {".mp4": 1}
    for file in (folder / "videos").iterdir():
        file.unlink()
    assert "no question of msvd_qa can be asked" in refusal(capsys, *words)
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "d.npy").touch()
    assert run([*words, "--features", f"video={tmp_path / 'features'}"]) == 0
    assert "1 videos found (1 .npy)" in capsys.readouterr().out


def test_failure_of_the_operating_system_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    message = refusal(capsys, "recipes", "copy", "video_llava", str(tmp_path / "file" / "below.yaml"))
    assert str(tmp_path / "file") in message and "Not a directory" in message


def test_interruption_exits_with_130_and_says_how_to_go_on(tmp_path):
    command = [sys.executable, "-m", "vidtune", "world", "shapes", "--out", str(tmp_path / "world")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not any(tmp_path.glob("world/videos/*.mp4")):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in error and "Traceback" not in error


@pytest.mark.parametrize("saved", [False, True])
def test_interrupted_training_says_whether_anything_is_saved(saved, tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("vidtune.cli.train"), "_train", interrupt)
    if saved:
        (tmp_path / "tune/checkpoint-1").mkdir(parents=True)
    assert run(["train", "video_llava_tiny", "--out", str(tmp_path)]) == 130
    said = capsys.readouterr().err
    assert ("goes on where it stopped" in said) == saved and ("nothing is saved yet" in said) != saved


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "error: Too many open files"),
        (OSError(errno.ESTALE, "Stale file handle", "/data/a"), "error: /data/a: Stale file handle"),
        (MemoryError(), "error: out of memory (MemoryError): compute less at a time"),
        (RuntimeError("x.cpp: DefaultCPUAllocator: can't allocate memory: 8 bytes"), "error: out of memory (x.cpp: "),
        (
            type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried\nmore"),
            "error: out of memory (CUDA ",
        ),
    ],
)
def test_what_the_machine_lacks_is_one_line(error, message, monkeypatch, capsys):
    def load(*given, **options):
        raise error

    monkeypatch.setattr(vidtune_module, "load", load)
    assert refusal(capsys, "answer", "place", "--question", "What?").startswith(message)


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    for error in (RuntimeError("shapes differ"), OSError(errno.EPROTO, "x"), ValueError("y")):
        monkeypatch.setattr(vidtune_module, "load", lambda *given, error=error, **options: (_ for _ in ()).throw(error))
        with pytest.raises(type(error)):
            run(["answer", "place", "--question", "What?"])
