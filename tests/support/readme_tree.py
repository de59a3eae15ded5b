"""The tree of the package as the README shows it, made from docstrings.

``python tests/support/readme_tree.py`` writes it. Rooms stand in the order of the import law in ``pyproject.toml``,
lowest first.
"""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "vidtune"
README = ROOT / "README.md"
START = "src/vidtune/\n"
WIDTH = 26


def folders() -> list[Path]:
    """Every folder of the package that holds modules, the package itself included."""
    return sorted(init.parent for init in PACKAGE.rglob("__init__.py"))


def docstring(module: Path) -> str:
    return ast.get_docstring(ast.parse(module.read_text())) or ""


def sentence(module: Path) -> str:
    """First line of a module's docstring, without the full stop."""
    return docstring(module).partition("\n")[0].removesuffix(".")


def law_order() -> list[str]:
    """Names of the rooms and of the modules beside them, lowest layer first; those of one layer by name."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [name for layer in reversed(layers) for name in sorted(part.strip(" ()") for part in layer.split("|"))]


def tree() -> str:
    """The lines of the README's tree about ``src/vidtune``."""
    lines = [line("__init__.py", PACKAGE / "__init__.py", 1)]
    for name in law_order():
        if (PACKAGE / name).is_dir():
            lines += room(PACKAGE / name, 1)
        elif (PACKAGE / f"{name}.py").exists():
            lines.append(line(f"{name}.py", PACKAGE / f"{name}.py", 1))
    return START + "".join(lines)


def room(folder: Path, depth: int) -> Iterator[str]:
    yield line(f"{folder.name}/", folder / "__init__.py", depth)
    for inner in sorted(init.parent for init in folder.glob("*/__init__.py")):
        yield from room(inner, depth + 1)


def line(name: str, module: Path, depth: int) -> str:
    return f"{'  ' * depth + name:<{WIDTH}} {sentence(module)}\n"


def written_tree() -> str:
    """The same lines as the README holds them: from ``src/vidtune/`` to the first line that is not indented."""
    _, _, after = README.read_text().partition(f"```\n{START}")
    lines = after.splitlines(keepends=True)
    return START + "".join(lines[: next(index for index, text in enumerate(lines) if not text.startswith("  "))])


if __name__ == "__main__":
    README.write_text(README.read_text().replace(written_tree(), tree(), 1))
