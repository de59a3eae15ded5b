"""Tensors that the official code wrote for its three towers; every size is read from the fixture."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vidtune.checkpoints.files.tensors import TensorFile, read_state
from vidtune.checkpoints.publication import TowerFile
from vidtune.checkpoints.report import LoadReport, rename
from vidtune.models.towers.base import tower_config

FIXTURES = Path(__file__).parents[1] / "parity" / "fixtures"
FOLDER = Path(os.environ.get("VIDTUNE_PARITY", FIXTURES)) / "longvale"
needs_fixture = pytest.mark.skipif(not FOLDER.is_dir(), reason="no longvale fixtures in this folder")


def read(name: str) -> Any:
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"{name} is not part of this fixture")
    return json.loads(path.read_text()) if path.suffix == ".json" else load_file(path)


def weights(prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix, by the names that the published file has."""
    tensors = read("weights.safetensors").items()
    return {name.removeprefix(prefix): tensor for name, tensor in tensors if name.startswith(prefix)}


def expected(prefix: str) -> dict[str, Tensor]:
    """What the original computed, by the names below a prefix."""
    tensors = read("expected.safetensors").items()
    return {name.removeprefix(prefix): tensor for name, tensor in tensors if name.startswith(prefix)}


def wave(samples: int) -> np.ndarray:
    """The fixture's sound, as long as wanted. Shape: float32 (samples,)"""
    clip = read("inputs.safetensors")["audio_clip.int8"].numpy()
    return np.resize(clip, samples).astype(np.float32) / 128


def load_tower(kind: str, path: Path, file: TowerFile, **sizes: Any) -> tuple[nn.Module, LoadReport]:
    """A tower of a published file, whose sizes the file tells but for ``sizes``."""
    held = TensorFile(path)
    told = (held.settings, held.shapes) if path.is_file() else (json.loads((path / "config.json").read_text()), {})
    tower = tower_config({"type": kind, **file.read_sizes(*told), **sizes}).build().eval()
    report = LoadReport(kind)
    tower.load_state_dict(rename(read_state(path), file.keys, report))
    report.refuse_gaps(path)
    return tower, report


def assert_keys_both_ways(tower: nn.Module, file: TowerFile, shapes: dict[str, list[int]]) -> None:
    """Published names and shapes are those of a tower on the meta device, read and written."""
    theirs = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    report = LoadReport("published")
    read_as = {name: tuple(tensor.shape) for name, tensor in rename(theirs, file.keys, report).items()}
    ours = tower.state_dict()
    assert read_as == {name: tuple(tensor.shape) for name, tensor in ours.items()}
    assert not report.unexpected and not report.ignored
    written = {file.keys.to_theirs(name): tensor for name, tensor in ours.items()}
    restored = file.keys.restore(written) if file.keys.restore else written
    assert {name: list(tensor.shape) for name, tensor in restored.items()} == shapes


def assert_restores(file: TowerFile, state: dict[str, Tensor]) -> None:
    """Reading and writing gives the published tensors back, number for number."""
    ours = rename(state, file.keys, LoadReport("published"))
    written = {file.keys.to_theirs(name): tensor for name, tensor in ours.items()}
    restored = file.keys.restore(written) if file.keys.restore else written
    assert restored.keys() == state.keys()
    assert all(torch.equal(restored[name], tensor) for name, tensor in state.items())
