"""Safetensors files of others: read as the library reads them, and everything that a header says is checked."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vidtune.foreign.safetensors_files import MAX_HEADER, SafetensorsFile

KINDS = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool)


def opened(path: Path) -> SafetensorsFile:
    with path.open("rb") as file:
        return SafetensorsFile(file)


def written(path: Path, header: Any, content: bytes = bytes(8)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path


def test_values_are_those_that_were_written(tmp_path: Path) -> None:
    state = {str(kind): torch.arange(6).view(2, 3).to(kind) for kind in KINDS} | {"none": torch.ones(0, 2)}
    save_file(state, tmp_path / "a.safetensors", metadata={"format": "pt"})
    file = opened(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").unlink()
    assert file.metadata == {"format": "pt"} and file.places.keys() == state.keys()
    assert all(file.read(name).dtype == tensor.dtype for name, tensor in state.items())
    assert all(torch.equal(file.read(name), tensor) for name, tensor in state.items())


def tensor(begin: int = 0, end: int = 8, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": tensor(), "b": tensor()}, "overlap"),
        ({"a": tensor(4, 8, (1,))}, "bytes between"),
        ({"a": tensor(0, 4, (1,))}, "bytes after the tensors"),
        ({"a": tensor(0, 16, (4,))}, "bytes are there"),
        ({"a": tensor(-8, 0)}, "no position"),
        ({"a": tensor(8, 0, (-2,))}, "no position"),
        ({"a": tensor(shape=(2**40, 2**40))}, "a tensor of shape"),
        ({"a": tensor(shape=(2.0,))}, "no position"),
        ({"a": tensor(shape=(True, 2))}, "no position"),
        ({"a": tensor(dtype="F3")}, "dtype F3"),
        ({"a": tensor(dtype=["F32"])}, "header"),
        ({"a": 7}, "header"),
        ({"__metadata__": 7, "a": tensor()}, "no object"),
        ([], "header"),
        (b"[" * 10_000, "header"),
        (b"\xff{}", "header"),
    ],
)
def test_a_header_that_lies_is_refused(header: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        opened(written(tmp_path / "a.safetensors", header))


def test_a_header_larger_than_the_file_is_not_read(tmp_path: Path) -> None:
    for length in (9, MAX_HEADER + 1, 2**63):
        (tmp_path / "a").write_bytes(struct.pack("<Q", length) + bytes(8))
        with pytest.raises(ValueError, match="no safetensors header"):
            opened(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"short")
    with pytest.raises(ValueError, match="no safetensors header"):
        opened(tmp_path / "a")


def test_a_header_larger_than_any_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER + 1))
        file.truncate(2 * MAX_HEADER)
    with pytest.raises(ValueError, match="no safetensors header"):
        opened(tmp_path / "sparse")
