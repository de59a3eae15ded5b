"""The shape of the house: imports run downward only, and only the places meant for it name what is published."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "vidtune"
# A part imports from its own level and from lower ones.
LEVELS = {
    0: {"cores", "errors", "spelling", "yaml_document", "recipe", "recipes", "media", "data"},
    1: {"processing", "models", "systems", "generation"},
    2: {"training", "evaluation", "world", "features", "serving"},
    3: {"cli", "__main__"},
}
LEVEL = {part: level for level, parts in LEVELS.items() for part in parts}
# Stricter than the levels: what these parts may import besides themselves.
ONLY = {
    "errors": set(),
    "spelling": set(),
    "media": {"errors", "spelling"},
    "models": {"errors", "spelling", "media", "recipe", "processing", "systems"},
    "processing": {"errors", "spelling", "media", "data", "recipe", "systems"},
    "systems": {"errors", "spelling", "media", "models", "processing"},
}
SYSTEM_NAMES = re.compile(r"video.?llava|video.?panda|artemis|video.?chat.?flash|longvale", re.IGNORECASE)
# One published name is that of a system and of the test set it was published with.
SYSTEMS_BENCHMARK = re.compile(r"longvale", re.IGNORECASE)
BENCHMARK_NAMES = re.compile(r"msvd|msrvtt|tgif|activitynet", re.IGNORECASE)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "vidtune" else [node.module]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("vidtune.") and name != "vidtune.__version__":
                yield name.split(".")[1], node.lineno


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downward(path):
    part = part_of(path)
    if part == "__init__":
        return
    for imported, line in imported_parts(path):
        assert LEVEL[imported] <= LEVEL[part], f"{path}:{line}: {part} imports {imported}, which stands above it"
        allowed = ONLY.get(part, set(LEVEL)) | {part}
        assert imported in allowed, f"{path}:{line}: {part} imports {imported}"


def line_to_search(path: Path, line: str) -> str:
    """The line without what only its place may name."""
    return SYSTEMS_BENCHMARK.sub("", line) if path.is_relative_to(PACKAGE / "evaluation/benchmarks") else line


@pytest.mark.parametrize(
    ("names", "homes"),
    [(SYSTEM_NAMES, {"systems", "recipes"}), (BENCHMARK_NAMES, {"evaluation/benchmarks", "recipes"})],
    ids=["systems", "benchmarks"],
)
def test_published_names_stay_at_home(names, homes):
    strangers = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in modules()
        if not any(path.is_relative_to(PACKAGE / home) for home in homes)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if names.search(line_to_search(path, line))
    ]
    # A system may override the protocol of a benchmark, which it then has to name.
    assert [line for line in strangers if not line.startswith("systems/")] == []
