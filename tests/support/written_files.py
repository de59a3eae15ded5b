"""The files that the first edition of this package wrote, unpacked into a folder."""

import lzma
import shutil
from pathlib import Path

WRITTEN = Path(__file__).parents[1] / "first_edition"
HERE = "@HERE@"
TEXTS = {".json", ".jsonl", ".yaml"}


def unpack(folder: Path) -> Path:
    """Copy the files of the first edition into a new folder, as they were when it wrote them."""
    shutil.copytree(WRITTEN, folder, ignore=shutil.ignore_patterns("*.py", "README.md", "__pycache__"))
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if path.suffix == ".xz":
            path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
            path.unlink()
        elif path.suffix in TEXTS and HERE in path.read_text():
            path.write_text(path.read_text().replace(HERE, str(folder)))
    return folder
