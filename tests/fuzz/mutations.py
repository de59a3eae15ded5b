"""Seeded damage of files: to their bytes, to the values of a document or a header, to the kind of file."""

import csv
import io
import json
import os
import random
import shutil
import socket
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from training_world import write_video

LINKED = "link to the file, outside"
DOCUMENTS = (".json", ".jsonl", ".yaml", ".yml", ".csv", ".tsv")
STRANGE_BYTES = (b"\xff", b"\x00", b"\xed\xa0\x80", b"\xfe\xff", b"\x1b[31m", b"\r\n", b"\xc3", b'"', b"{", b"[" * 300)
NUMBERS = (
    0,
    1,
    2,
    0xFF,
    0x7F,
    0x80,
    0xFFFF,
    0x7FFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**40,
    2**62,
    2**64 - 1,
)
YAML_LINES = (
    "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b]",
    "key: !!python/object/apply:os.getcwd []",
    "key: !!binary abc",
    "key: !!timestamp x",
    "<<: [1, 2]",
    "<<: {a: 1}",
    "? [a, b]\n: c",
    "? {a: b}\n: c",
    "key: 2001-02-30",
    "key: 0x7fffffffffffffffffff",
    "key: 1:60:99",
    "key: \0",
    "key: \ud800",
    "%YAML 9.9",
    "---\n...",
    "key: *nowhere",
    "&x key: *x",
    "!!set {a, b}",
    "\tkey: tab",
    "key: 'open",
)
STRANGE_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    10**19,
    10**400,
    -(2**63),
    1e308,
    5e-324,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\ud800",
    "a\0b",
    "\x1b[2J",
    "../../outside",
    "/dev/zero",
    "/",
    ".",
    "~",
    "nan",
    "${NOWHERE}",
    "x" * 5000,
    [],
    {},
    [[]],
    [None],
    {"": None},
)
"""What a value of a document is replaced with; nested lists and long ones come besides."""


def damage(path: Path, random_: random.Random, hold: Callable[[Path], Path]) -> str:
    """Damage one file in place. Returns what was done.

    Args:
        hold: moves a file out of the folder of the command, and returns where it is then.
    """
    if random_.random() < 0.06:
        return replace_kind(path, random_, hold)
    if path.suffix in DOCUMENTS and random_.random() < 0.65:
        with suppress(ValueError, yaml.YAMLError, IndexError):
            return change_document(path, random_)
    data = path.read_bytes()
    if random_.random() < 0.4:
        with suppress(ValueError, IndexError, struct.error):
            changed = change_header(path.suffix, data, random_)
            if changed is not None:
                path.write_bytes(changed[0])
                return changed[1]
    for _ in range(random_.choice((1, 1, 1, 2, 5))):
        data, said = change_bytes(data, random_)
    path.write_bytes(data)
    return said


def change_bytes(data: bytes, random_: random.Random) -> tuple[bytes, str]:
    """One change of the bytes of a file, more often near its begin, where its tables are."""
    size = len(data)

    def place(room: int = 1) -> int:
        end = max(1, size - room)
        return random_.randrange(min(end, 512)) if random_.random() < 0.5 else random_.randrange(end)

    kind = random_.choice(("flip", "flips", "cut", "drop", "insert", "double", "number", "swap", "fill", "strange"))
    at, length = place(), random_.choice((1, 2, 4, 8, 64, 1024))
    changed = bytearray(data)
    match kind:
        case "flip" if size:
            changed[at] ^= 1 << random_.randrange(8)
        case "flips" if size:
            for _ in range(random_.choice((4, 32, 256))):
                changed[place()] = random_.randrange(256)
        case "cut":
            del changed[at:]
        case "drop":
            del changed[at : at + length]
        case "insert":
            changed[at:at] = random_.randbytes(length)
        case "double":
            changed[at:at] = changed[at : at + length]
        case "number":
            width, order = random_.choice((2, 4, 8)), random_.choice(("little", "big"))
            number = random_.choice(NUMBERS) % 2 ** (8 * width)
            changed[at : at + width] = number.to_bytes(width, order)  # type: ignore[arg-type]
        case "swap" if size > 16:
            other, width = place(8), random_.choice((2, 4, 8))
            one = place(8)
            first, second = bytes(changed[one : one + width]), bytes(changed[other : other + width])
            changed[one : one + width], changed[other : other + width] = second, first
        case "fill":
            filler = bytes([random_.choice((0, 255))]) * length
            changed[at : at + length] = filler
        case _:
            changed[at:at] = random_.choice(STRANGE_BYTES)
    return bytes(changed), f"{kind} at {at} ({length})"


def change_header(suffix: str, data: bytes, random_: random.Random) -> tuple[bytes, str] | None:
    """A change of the JSON header of tensors, of the header of an array, of a box of an mp4; None: it has none."""
    if suffix == ".safetensors":
        (length,) = struct.unpack("<Q", data[:8])
        values = json.loads(data[8 : 8 + length])
        said = change_value(values, random_)
        header = to_json(values)
        stated = len(header) if random_.random() < 0.8 else random_.choice(NUMBERS) % 2**64
        return struct.pack("<Q", stated) + header + data[8 + length :], f"header: {said}"
    if suffix == ".npy" and data[:6] == b"\x93NUMPY":
        end = 10 + int.from_bytes(data[8:10], "little")
        shape = random_.choice(
            ("(1000000, 1000000)", "(-1, 4)", "(0, 4)", "()", "(3,)", "('x',)", "(2**40,)", "4", "(True, 8)")
        )
        kind = random_.choice(
            ("'<f4'", "'|O'", "'<f8'", "'|S1000'", "'<U4'", "'<M8[s]'", "[('a', '<f4')]", "'<c16'", "'V8'", "7")
        )
        text = f"{{'descr': {kind}, 'fortran_order': {random_.choice(('False', 'True', '3'))}, 'shape': {shape}, }}"
        header = text.encode().ljust(end - 11)[: end - 11] + b"\n"
        return data[:10] + header + data[end:], f"header: {text}"
    if suffix in (".mp4", ".mov"):
        boxes = [
            at
            for name in (
                b"stsz",
                b"stco",
                b"stts",
                b"stsc",
                b"elst",
                b"mdhd",
                b"tkhd",
                b"avcC",
                b"ctts",
                b"mvhd",
                b"stsd",
            )
            if (at := data.find(name)) > 0
        ]
        at = random_.choice(boxes) + 4 * random_.randrange(-1, 8)
        number = random_.choice(NUMBERS) % 2**32
        return data[:at] + struct.pack(">I", number) + data[at + 4 :], f"box: {number} at {at}"
    return None


def change_document(path: Path, random_: random.Random) -> str:
    """Change values of a JSON, JSON lines, YAML or CSV file; it is still one, but for lines that are no YAML."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".csv", ".tsv"):
        delimiter = "\t" if path.suffix == ".tsv" else ","
        rows = list(csv.reader(io.StringIO(text), delimiter=delimiter))
        said = change_value(rows, random_)
        cells = [[str(cell) for cell in row] if isinstance(row, list) else [str(row)] for row in rows]
        written = io.StringIO()
        csv.writer(written, delimiter=delimiter).writerows(cells)
        path.write_bytes(written.getvalue().encode("utf-8", "surrogatepass"))
        return said
    if path.suffix == ".jsonl":
        lines = text.splitlines()
        at = random_.randrange(len(lines))
        value = [json.loads(lines[at])]
        said = change_value(value, random_)
        lines[at] = "\n".join(to_json(one).decode() for one in value)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return f"line {at + 1}: {said}"
    if path.suffix == ".json":
        values = [json.loads(text)]
        said = change_value(values, random_)
        path.write_bytes(to_json(values[0] if values else None))
        return said
    if random_.random() < 0.3:
        lines = text.splitlines()
        at, line = random_.randrange(len(lines) + 1), random_.choice(YAML_LINES)
        lines[at:at] = line.splitlines() if random_.random() < 0.5 else []
        written = "\n".join(lines) + "\n" + (line + "\n" if random_.random() < 0.5 else "")
        path.write_bytes(written.encode("utf-8", "surrogatepass"))
        return f"YAML {line!r} at line {at + 1}"
    values = [yaml.safe_load(text)]
    said = change_value(values, random_)
    path.write_bytes(to_json(values[0] if values else None))  # JSON is YAML
    return said


def change_value(value: Any, random_: random.Random) -> str:
    """Change one or a few places in nested lists and dictionaries. Returns the last change."""
    said = "nothing"
    for _ in range(random_.choice((1, 1, 1, 1, 3))):
        holder, key, where = _place(value, random_)
        kind = random_.choice(
            ("replace", "replace", "replace", "replace", "remove", "rename", "nest", "repeat", "deep", "type")
        )
        old = holder[key]
        if kind == "remove":
            del holder[key]
        elif kind == "rename" and isinstance(holder, dict):
            holder[random_.choice((f"{key}x", "", "\ud800", str(key).upper(), "__class__"))] = holder.pop(key)
        elif kind == "nest":
            holder[key] = random_.choice(([old], {"value": old}, [old, old]))
        elif kind == "repeat":
            holder[key] = old * 1000 if isinstance(old, str | list) else [old] * 1000
        elif kind == "deep":
            holder[key] = Deep(random_.choice((50, 200, 1500, 100_000)), random_.choice(("[]", "{}")))
        elif kind == "type":
            holder[key] = str(old) if not isinstance(old, str) else random_.choice((len(old), [old], {old: old}))
        else:
            holder[key] = random_.choice(STRANGE_VALUES)
        said = f"{kind} {where}: {str(holder[key])[:60] if kind != 'remove' and key in _keys(holder) else ''}"
    return said.encode("ascii", "backslashreplace").decode()


class Deep(str):
    """Text that stands in a written document for lists or dictionaries in each other."""

    depth: int
    brackets: str

    def __new__(cls, depth: int, brackets: str) -> "Deep":
        made = super().__new__(cls, f"@@deep{depth}{brackets}@@")
        made.depth, made.brackets = depth, brackets
        return made

    def written(self) -> str:
        opened = "[" if self.brackets == "[]" else '{"a":'
        return opened * self.depth + "1" + self.brackets[1] * self.depth


def to_json(value: Any) -> bytes:
    text = json.dumps(value)
    for brackets in ("[]", "{}"):
        for depth in (50, 200, 1500, 100_000):
            deep = Deep(depth, brackets)
            if str(deep) in text:
                text = text.replace(json.dumps(str(deep)), deep.written())
    return text.encode("utf-8", "surrogatepass")


def _keys(holder: Any) -> Any:
    return holder if isinstance(holder, dict) else range(len(holder))


def _place(value: Any, random_: random.Random) -> tuple[Any, Any, str]:
    """A list or dictionary in ``value``, one of its keys, and the way to it."""
    holder, key, where = value, None, ""
    while True:
        if not holder:
            raise IndexError("nothing to change")
        key = random_.choice(list(_keys(holder)))
        where += f"/{key}"
        below = holder[key]
        if not isinstance(below, list | dict) or not below or random_.random() < 0.15:
            return holder, key, where
        holder = below


def replace_kind(path: Path, random_: random.Random, hold: Callable[[Path], Path]) -> str:
    """Put something else at the path of a file."""
    kinds: dict[str, Callable[[], object]] = {
        "FIFO": lambda: os.mkfifo(path),
        "link to a device": lambda: path.symlink_to("/dev/zero"),
        "link to a terminal": lambda: path.symlink_to("/dev/tty"),
        "folder": path.mkdir,
        "nothing": lambda: None,
        "link to nothing": lambda: path.symlink_to("nowhere"),
        "link to itself": lambda: path.symlink_to(path.name),
        "link to a system file": lambda: path.symlink_to("/etc/passwd"),
        "socket": lambda: _socket(path),
        "empty file": path.touch,
        "sparse file of a terabyte": lambda: _sparse(path),
        "video": lambda: path.write_bytes(a_video()),
        "another file": lambda: path.write_bytes(b"\x89PNG\r\n\x1a\n" + random_.randbytes(200)),
        "PostScript": lambda: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "playlist": lambda: path.write_bytes(b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nfile:///etc/passwd\n"),
        "pickle": lambda: path.write_bytes(b"cposix\nsystem\n(S'touch fuzz-was-here'\ntR."),
    }
    name = random_.choice((*sorted(kinds), LINKED, LINKED))
    if name == LINKED:
        path.symlink_to(hold(path))
        return name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    kinds[name]()
    return name


@cache
def a_video() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_video(path, (9, 90, 200), frames=3)
        return path.read_bytes()


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the address of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)
