"""What import-linter does not check of the shape of the house: sizes and sentences of folders, the README's tree."""

import re
from collections import Counter

import grimp
import networkx
import pytest
import readme_tree

FOLDERS = readme_tree.folders()
MOST_FILES = 14


DOCS = [readme_tree.ROOT / page for page in ("docs/design.md", "docs/security.md", "CONTRIBUTING.md")]
FILE = re.compile(r"`((?:\w+/)+(?:\w+\.\w+)?)`")


def name_of(folder) -> str:
    return str(folder.relative_to(readme_tree.PACKAGE.parent))


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_a_folder_shows_few_files(folder):
    shown = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(shown) <= MOST_FILES, f"{name_of(folder)} shows {len(shown)} files: make rooms in it"


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_a_folder_says_in_one_sentence_what_it_is_for(folder):
    first = readme_tree.docstring(folder / "__init__.py").partition("\n\n")[0]
    assert "\n" not in first, f"{name_of(folder)}/__init__.py: the docstring starts with a paragraph of one line"
    assert first.endswith(".") and ". " not in first, f"{name_of(folder)}/__init__.py: one sentence, not {first!r}"


def test_the_readme_shows_this_tree():
    assert readme_tree.written_tree() == readme_tree.tree(), "run: python tests/support/readme_tree.py"


def test_no_two_test_files_have_one_name():
    """pytest imports them by their names alone."""
    paths = [path for path in (readme_tree.ROOT / "tests").rglob("test_*.py") if path.parent.name != "real"]
    names = Counter(path.name for path in paths)
    assert [name for name, number in names.items() if number > 1] == []


def test_no_circle_of_files():
    """Import-linter compares siblings; this also sees a circle of a file and the ``__init__`` above it."""
    graph = grimp.build_graph("vidtune", exclude_type_checking_imports=True, cache_dir=None)
    imports = networkx.DiGraph(
        (module, imported) for module in graph.modules for imported in graph.find_modules_directly_imported_by(module)
    )
    circles = [sorted(files) for files in networkx.strongly_connected_components(imports) if len(files) > 1]
    assert circles == []


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    named = FILE.findall(page.read_text())
    missing = [
        name for name in named if not any((root / name).exists() for root in (readme_tree.PACKAGE, readme_tree.ROOT))
    ]
    assert named and missing == []
