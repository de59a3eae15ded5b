"""What the pages say exists: commands, options, recipes, links and files."""

import re
from pathlib import Path

import pytest
import typer

from vidtune.cli.main import app
from vidtune.recipe.shipped import list_recipes
from vidtune.registry import BENCHMARKS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
HELP = typer.main.get_command(app)
WRITTEN = re.compile(r"(?:`|^|\| |/bin/|-m |\d )vidtune (?P<words>[a-z][^`\n#|]*)", re.MULTILINE)
OPTION = re.compile(r"(?<=[ `(])--[a-z]+(?:-[a-z]+)*(?=[ `=,.)\n]|$)")
LINK = re.compile(r"\]\((?!https?:)(?P<file>[^)#]*)(?:#(?P<heading>[^)]*))?\)")
PATH = re.compile(r"`((?:tests|benchmarks|docs)/[\w./]*)`")

FOREIGN = {
    *("--nnodes", "--nproc-per-node"),  # torchrun
    "--check",  # ruff
    *("--pairs", "--seconds", "--files", "--rounds", "--kinds", "--tokens", "--tiny"),  # scripts in benchmarks/
    *("--chats", "--requests", "--only"),  # benchmarks/serve.py
    *("--boxes", "--looped", "--width", "--train"),  # benchmarks/regions.py
    *("--model", "--tasks", "--no-deps"),  # lmms-eval, pip
    "--log-dir",  # inspect
    "--case",  # tests/fuzz/fuzz.py
}


def command_of(words: list[str]):
    """The command that a line starts with, and the number of its words; None where the text only names a group."""
    command, used = HELP, 0
    while hasattr(command, "commands"):
        if used >= len(words) or words[used] not in command.commands:
            return (command, used) if used else (None, 0)
        command, used = command.commands[words[used]], used + 1
    return command, used


def options_of(command) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help",
        "--version",
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_their_options_exist(page: Path) -> None:
    wrong = []
    for match in WRITTEN.finditer(page.read_text().replace("\\\n", " ")):
        words = match["words"].split()
        if not words[0].isalpha():  # prose
            continue
        command, used = command_of(words)
        if command is None:
            wrong.append(match[0])
            continue
        unknown = set(OPTION.findall(match["words"])) - options_of(command)
        wrong += [f"{match[0]}: no option {name}" for name in sorted(unknown)]
        named = words[used] if used < len(words) else ""
        if words[0] in ("train", "doctor", "data") and re.fullmatch(r"[a-z]+(_[a-z]+)+", named):
            wrong += [] if named in list_recipes() else [f"{match[0]}: no recipe {named}"]
    assert wrong == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name != "systems"], ids=lambda page: page.stem)
def test_options_named_alone_exist(page: Path) -> None:
    """Pages about systems name options of the official programs too."""
    commands = [HELP, *HELP.commands.values()]
    commands += [inner for command in commands[1:] for inner in getattr(command, "commands", {}).values()]
    known = FOREIGN.union(*map(options_of, commands))
    drawings = {"--training", "--generation"}  # arrows of the house
    assert set(OPTION.findall(page.read_text())) - known - drawings == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for match in LINK.finditer(page.read_text()):
        target = page.parent / match["file"] if match["file"] else page
        if not target.exists():
            broken.append(match[0])
        elif match["heading"]:
            lines = [line.lstrip("#").strip() for line in target.read_text().splitlines() if line.startswith("#")]
            anchors = {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}
            broken += [] if match["heading"] in anchors else [match[0]]
    assert broken == [] and all((ROOT / path).exists() for path in PATH.findall(page.read_text()))


def test_evaluation_is_explained_in_three_pages() -> None:
    """A page has about 700 words; what is longer belongs into the reference."""
    assert len((ROOT / "docs/evaluation.md").read_text().split()) <= 3 * 700


def test_every_benchmark_is_in_the_page_about_test_sets() -> None:
    text = (ROOT / "docs/test_sets.md").read_text()
    suffixes = ("_lmms_eval",)  # "each also `_lmms_eval`"
    names = {name.removesuffix(suffix) for name in BENCHMARKS for suffix in suffixes}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_every_command_is_in_the_docs() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    for name, command in HELP.commands.items():
        for inner in getattr(command, "commands", {"": None}):
            written = f"vidtune {name} {inner}".strip()
            assert written in text, f"{written} is in no page"
