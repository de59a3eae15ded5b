"""The law of the one door: only the files listed here read from disk by other means than `vidtune.foreign`."""

import ast
from collections.abc import Iterator

import readme_tree

SHIPPED = "a file of this package"
SYSTEM = "what the operating system says of this process"
TEXT = "a value of this process, or a text that came through the door"
MEDIA = "media, after first_look"
LIBRARY = "a library opens it by name, after the door has looked at it"
CACHE = "a cache of our own; what is damaged is made again"
WRITES = "opened to write, or to force it to the disk"
ALLOWED = {
    "checkpoints/files/tensors.py": LIBRARY,
    "checkpoints/assembly/fill.py": LIBRARY,
    "checkpoints/fit_processor.py": LIBRARY,
    "cli/main.py": WRITES,
    "cli/recipes.py": SHIPPED,
    "data/forms/columns.py": TEXT,
    "data/parsing.py": CACHE,
    "data/tables.py": CACHE,
    "evaluation/benchmarks/images/table.py": TEXT,
    "evaluation/judges/prices/table.py": SHIPPED,
    "evaluation/judges/replies.py": TEXT,
    "evaluation/metrics/programs/bert_score.py": LIBRARY,
    "evaluation/models/pretrained.py": LIBRARY,
    "evaluation/published.py": SHIPPED,
    "evaluation/report/page.py": SHIPPED,
    "machine/cgroups.py": SYSTEM,
    "machine/files.py": WRITES,
    "machine/locks.py": WRITES,
    "machine/memory.py": SYSTEM,
    "machine/records.py": WRITES,
    "media/container.py": MEDIA,
    "media/feature_file.py": LIBRARY,
    "media/image.py": MEDIA,
    "media/kept/decoded.py": CACHE,
    "models/video_lm.py": LIBRARY,
    "planning/counted_files.py": CACHE,
    "planning/lengths.py": CACHE,
    "processing/tokenizer.py": LIBRARY,
    "serving/media.py": "hashes a file that the server fetched itself",
    "serving/page/response.py": SHIPPED,
    "training/inspection/sample_page.py": SHIPPED,
}
"""File that reads by other means -> why."""

READING = {"read_text", "read_bytes", "from_pretrained", "memmap", "fromfile", "from_file"}
"""Methods and functions that read a file that they get by name, whatever they belong to."""
LOADING = {"load", "loads", "safe_load", "full_load", "load_all", "open", "ZipFile", "reader"}
"""Functions that read, of the modules in `LIBRARIES`."""
LIBRARIES = {"av", "csv", "Image", "io", "json", "np", "os", "tarfile", "torch", "wave", "yaml", "zipfile"}
ALONE = {"open", "safe_open", "load_file", "load_image"}
"""Functions that are called by their bare name."""


def readings(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls that read a file or parse what others wrote; those that say that they write are left out."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        texts = [one.value for one in call.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        if any(text[:1] in ("w", "x", "a") for text in texts):
            continue
        if isinstance(call.func, ast.Name):
            if call.func.id in ALONE:
                yield call
        elif isinstance(call.func, ast.Attribute):
            owner = call.func.value.id if isinstance(call.func.value, ast.Name) else None
            reads = call.func.attr == "open" and (not call.args or texts[:1] in (["r"], ["rb"], ["rt"]))
            if call.func.attr in READING or reads or (call.func.attr in LOADING and owner in LIBRARIES):
                yield call


def read_elsewhere() -> dict[str, list[int]]:
    """File outside `foreign/` -> lines in which it reads."""
    found: dict[str, list[int]] = {}
    for path in sorted(readme_tree.PACKAGE.rglob("*.py")):
        name = path.relative_to(readme_tree.PACKAGE).as_posix()
        lines = [call.lineno for call in readings(ast.parse(path.read_text()))]
        if lines and not name.startswith("foreign/"):
            found[name] = lines
    return found


def test_files_of_others_are_read_through_one_door():
    found = read_elsewhere()
    new = {name: lines for name, lines in found.items() if name not in ALLOWED}
    assert not new, f"{new}: read through vidtune.foreign, or say here why not"
    gone = [name for name in ALLOWED if not (readme_tree.PACKAGE / name).is_file()]
    assert not gone, f"{gone}: take them out of ALLOWED"


def test_the_law_sees_every_way_of_reading():
    ways = """
open(path); path.open(); path.open("rb"); Path(path).read_text(); path.read_bytes(); json.loads(text); json.load(file)
yaml.safe_load(text); np.load(path); np.memmap(path); torch.load(path); safe_open(path, framework="pt")
Image.open(path); av.open(path); Model.from_pretrained(path); os.open(path, os.O_RDONLY); zipfile.ZipFile(path)
"""
    assert len(list(readings(ast.parse(ways)))) == 17
    assert not list(
        readings(ast.parse('open(path, "w"); path.open("xb"); RunFolder.open(path, info); av.open(p, "w")'))
    )


if __name__ == "__main__":
    for name, lines in read_elsewhere().items():
        print(name, lines)
