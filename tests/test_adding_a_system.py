"""``docs/adding_a_system.md``, followed step by step: a system from another package, found by its entry point."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from qa_sets import write_set
from synthetic_clips import write_clip
from transformers import LlamaTokenizer

DOCUMENT = Path(__file__).parents[1] / "docs" / "adding_a_system.md"
TOKENIZER_MODEL = Path(__file__).parent / "parity/fixtures/video_llava/tokenizer.model"
BLOCK = re.compile(r"```\w+\n# file: (\S+)\n(.*?)```", re.DOTALL)


def files_of_the_page() -> dict[str, str]:
    """Name -> content of every file that the page shows, its blocks joined in order."""
    files: dict[str, str] = {}
    for name, text in BLOCK.findall(DOCUMENT.read_text(encoding="utf-8")):
        files[name] = files.get(name, "") + ("\n\n" if name in files else "") + text
    return files


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as pip would have installed it, and what the commands name."""
    work = tmp_path_factory.mktemp("outside")
    site, files = work / "site", files_of_the_page()
    (site / "plain_clip-0.1.dist-info").mkdir(parents=True)
    (site / "plain_clip.py").write_text(files["plain_clip.py"])
    project = tomllib.loads(files["pyproject.toml"])["project"]
    points = [
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in found.items())
        for group, found in project["entry-points"].items()
    ]
    (site / "plain_clip-0.1.dist-info/entry_points.txt").write_text("\n".join(points))
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (site / "plain_clip-0.1.dist-info/METADATA").write_text(metadata)
    (work / "tiny.yaml").write_text(files["tiny.yaml"])
    (work / "tokenizer").mkdir()
    shutil.copy(TOKENIZER_MODEL, work / "tokenizer/tokenizer.model")
    LlamaTokenizer.from_pretrained(str(work / "tokenizer")).save_pretrained(work / "tokenizer")
    write_clip(work / "clip.mp4")
    said = [{"from": "human", "value": "<video>\nWhat moves?"}, {"from": "gpt", "value": "A square."}]
    samples = [{"id": name, "video": "clip.mp4", "conversations": said} for name in "abcd"]
    (work / "train.json").write_text(json.dumps(samples))
    test_set = write_set(
        work / "world/GPT_Zero_Shot_QA/World_Zero_Shot_QA", [("clip", "What moves?", "square")], missing=["clip"]
    )
    shutil.copy(work / "clip.mp4", test_set / "videos/clip.mp4")
    return work


def test_the_commands_of_the_page_work_in_order(work):
    path = os.pathsep.join([str(work / "site"), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    shown = {}
    for command in files_of_the_page()["commands"].splitlines():
        words = re.findall(r'"([^"]*)"|(\S+)', command)
        arguments = [quoted or plain for quoted, plain in words][1:]
        done = subprocess.run(
            [sys.executable, "-m", "vidtune", *arguments], cwd=work, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        shown[command] = done.stdout
    listed, trained, answered, _, again, evaluated = shown.values()
    assert "plain_clip: Plain-CLIP" in listed and "trained:" in trained
    assert answered == again and answered.strip()
    assert "world_qa" in evaluated


def test_two_packages_with_one_name_are_refused(work):
    """The second package that announces the name of a shipped system is named together with the first."""
    clash = work / "clash/other-0.1.dist-info"
    clash.mkdir(parents=True)
    (clash / "entry_points.txt").write_text("[vidtune.systems]\nvideo_llava = other:SYSTEM\n")
    (clash / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 0.1\n")
    path = os.pathsep.join([str(work / "clash"), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "vidtune", "systems"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "system 'video_llava' is in package other and in package vidtune" in done.stderr
