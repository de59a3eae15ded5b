"""Hook of mkdocs: files at the top of the repository are pages of the site too, README the first one."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "reporting.md"}
"""File at the top of the repository -> its page."""
PAGES |= {"CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)[^)\s]+(?=\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the files at the top of the repository."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_LINK.sub(_from_the_top, text)))
    return files


def on_page_markdown(markdown: str, page: Any, **others: Any) -> str:
    """Links of docs/ to files at the top lead to their pages."""
    up = "../" * (page.file.src_uri.count("/") + 1)
    for name, target in PAGES.items():
        markdown = markdown.replace(f"]({up}{name}", f"]({up[3:]}{target}")
    return markdown


def _from_the_top(link: re.Match[str]) -> str:
    place, mark, part = link.group().partition("#")
    return PAGES.get(place, place.removeprefix("docs/")) + mark + part
