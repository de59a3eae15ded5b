"""``docs/adding_a_system.md``, followed step by step: a system from another package, found by its entry points.

The package is installed by pip into a folder of its own; nothing of this repository is edited.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from qa_sets import write_set
from safetensors.torch import load_file
from synthetic_clips import write_clip
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, LlamaTokenizer

from vidtune.cli.main import run

DOCUMENT = Path(__file__).parents[1] / "docs" / "adding_a_system.md"
TOKENIZER_MODEL = Path(__file__).parent / "parity/fixtures/video_llava/tokenizer.model"
BLOCK = re.compile(r"```\w+\n# file: (\S+)\n(.*?)```", re.DOTALL)
PROGRAM = str(Path(__file__).parent / "support/run_commands.py")
QUESTIONS = ["What moves?", "Which colour is it?", "Where does it go?", "How many are there?"]


def files_of_the_page() -> dict[str, str]:
    """Name -> content of every file that the page shows, its blocks joined in order."""
    files: dict[str, str] = {}
    for name, text in BLOCK.findall(DOCUMENT.read_text(encoding="utf-8")):
        files[name] = files.get(name, "") + ("\n\n" if name in files else "") + text
    return files


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed package, and what the commands of the page name."""
    work, files = tmp_path_factory.mktemp("outside"), files_of_the_page()
    for name, text in files.items():
        inside = work / "package" if name == "pyproject.toml" or "/" in name else work
        (inside / name).parent.mkdir(parents=True, exist_ok=True)
        (inside / name).write_text(text)
    install = ["install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", work / "site"]
    done = subprocess.run([sys.executable, "-m", "pip", *install, work / "package"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    write_published_parts(work)
    write_clip(work / "clip.mp4", num_frames=3)
    write_clip(work / "longer.mp4", num_frames=9, size=(48, 64))
    samples = []
    for name, question in zip(("clip.mp4", "longer.mp4") * 2, QUESTIONS, strict=True):
        said = [{"from": "human", "value": f"{question}\n<video>"}, {"from": "gpt", "value": "A square."}]
        samples.append({"id": question, "video": name, "conversations": said})
    (work / "train.json").write_text(json.dumps(samples))
    asked = [("clip", question, "square") for question in QUESTIONS]
    test_set = write_set(work / "world/GPT_Zero_Shot_QA/World_Zero_Shot_QA", asked, missing=["clip"])
    shutil.copy(work / "clip.mp4", test_set / "videos/clip.mp4")
    return work


def write_published_parts(work: Path) -> None:
    """A tiny Llama with its tokenizer, and a tiny CLIP, as their publishers store them."""
    torch.manual_seed(0)
    (work / "llama").mkdir()
    shutil.copy(TOKENIZER_MODEL, work / "llama/tokenizer.model")
    tokenizer = LlamaTokenizer.from_pretrained(str(work / "llama"))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    llama = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **sizes)
    LlamaForCausalLM(llama).save_pretrained(work / "llama")
    tokenizer.save_pretrained(work / "llama")
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 3}
    CLIPVisionModel(CLIPVisionConfig(image_size=28, patch_size=14, **sizes)).save_pretrained(work / "clip")


def with_packages(folder: Path) -> dict[str, str]:
    """The environment of a process that finds the packages of a folder before all others."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"}


def run_commands(work: Path, commands: list[str]) -> list[dict[str, Any]]:
    """Runs commands in the folder ``work``, with the package; code, output and errors of each."""
    words = [shlex.split(command)[1:] for command in commands]
    done = subprocess.run(
        [sys.executable, PROGRAM, json.dumps(words)],
        cwd=work,
        env=with_packages(work / "site"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


COMMANDS = files_of_the_page()["commands"].splitlines()


@pytest.fixture(scope="module")
def done(work: Path) -> list[dict[str, Any]]:
    """What the commands of the page said, and one more, which merges the adapters."""
    return run_commands(work, [*COMMANDS, "vidtune convert run/adapt/final merged"])


def test_the_installed_package_is_found_before_anything_heavy_is_imported(work):
    code = "import sys, vidtune.registry as r; print(r.SYSTEMS.package('pooled_clip'), 'torch' in sys.modules)"
    command, environment = [sys.executable, "-c", code], with_packages(work / "site")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "pooled-clip False", done.stderr


@pytest.mark.whole
def test_the_commands_of_the_page_work_in_order(work, done):
    for command, result in zip(COMMANDS, done, strict=False):
        assert result["code"] == 0, f"{command}\n{result['err']}"
        assert "You are using a model of type" not in result["err"]
    listed, trained, answered, evaluated, *_, explained, _, again, _ = [result["out"] for result in done]
    assert "pooled_clip: Pooled-CLIP" in listed and "trained:" in trained and "world_qa" in evaluated
    assert answered == again and answered.strip()
    assert [line.split()[1] for line in explained.splitlines()] == ["base", "difference", "tower", "connectors"]
    ours, back = (load_file(work / name / "model.safetensors") for name in ("merged", "again"))
    assert set(ours) == set(back)
    for name, tensor in ours.items():
        torch.testing.assert_close(back[name], tensor, atol=1e-6, rtol=1e-6)
    config = json.loads((work / "again/config.json").read_text())
    assert config["packages"] == dict.fromkeys(("system pooled_clip", "tower type pooled_clip"), "pooled-clip 0.1")


@pytest.mark.whole
def test_rows_of_the_added_tokens_are_trained_and_published(work, done):
    """The file beside the connector holds three rows; they are not what the mean of the others was."""
    rows = torch.load(work / "projector/mm_projector.bin", weights_only=True)["model.embed_tokens.weight"]
    others = load_file(work / "llama/model.safetensors")["model.embed_tokens.weight"]
    assert rows.shape == (3, 32)
    trained = (rows - others.mean(0)).abs().amax(1)
    assert trained[0] < 1e-6 and (trained[1:] > 1e-3).all()  # <vid_patch> stands in no prompt


def test_a_recipe_without_its_package_says_name_and_pip_command(work, monkeypatch, capsys):
    monkeypatch.chdir(work)
    assert run(["train", "tiny.yaml", "--out", "elsewhere"]) == 2
    assert "pip install 'pooled-clip==0.1'" in capsys.readouterr().err


@pytest.mark.whole
def test_a_checkpoint_without_its_package_says_name_and_pip_command(work, done, monkeypatch, capsys):
    monkeypatch.chdir(work)
    assert run(["answer", "again", "--question", "Who", "--video", "clip.mp4"]) == 2
    assert "pip install pooled-clip==0.1" in capsys.readouterr().err


def test_two_packages_with_one_name_are_refused(work):
    """The second package that announces the name of a shipped system is named together with the first."""
    clash = work / "clash/other-0.1.dist-info"
    clash.mkdir(parents=True)
    (clash / "entry_points.txt").write_text("[vidtune.systems]\nvideo_llava = other:SYSTEM\n")
    (clash / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 0.1\n")
    done = subprocess.run(
        [sys.executable, "-m", "vidtune", "systems"],
        env=with_packages(work / "clash"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "system 'video_llava' is in package other and in package vidtune" in done.stderr
