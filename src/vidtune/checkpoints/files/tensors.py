"""Reading and writing files of named tensors: safetensors or pickled, single or sharded, never executing anything."""

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vidtune.checkpoints.files.script_archive import (
    ARCHIVE_ERRORS,
    is_script_archive,
    read_script_archive,
    stored_tensors,
)
from vidtune.errors import UserError

INDEX_NAMES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE_NAMES = ("model.safetensors", "pytorch_model.bin")
# Pickled training checkpoints hold their tensors, and what their model was built with, below these keys.
NESTED, SETTINGS = "model", "cfg"


def weight_files(path: Path, names: tuple[str, ...] = SINGLE_NAMES) -> list[Path]:
    """The files that hold the weights at ``path``: itself, or those of a checkpoint folder.

    Raises:
        UserError: nothing there, or a shard that the index names is missing.
    """
    if path.is_file():
        return [path]
    for index in (path / name for name in INDEX_NAMES):
        if index.is_file():
            shards = sorted({path / shard for shard in json.loads(index.read_text())["weight_map"].values()})
            for shard in shards:
                if not shard.resolve().is_relative_to(path.resolve()) and not index.is_symlink():
                    raise UserError(f"{index}: names {shard}, which is outside the folder")
                if not shard.is_file():
                    raise UserError(f"{index}: names {shard.name}, which is missing; copy the whole checkpoint")
            return shards
    for name in names:
        if (path / name).is_file():
            return [path / name]
    raise UserError(f"{path}: no weights found (looked for {', '.join((*INDEX_NAMES, *names))})")


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of everything in one file; safetensors are memory-mapped, pickles load weights only.

    A pickled file may also hold its tensors below the key ``model``; a TorchScript archive is read, not run.

    Raises:
        UserError: not a readable file of tensors; names the file.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    yield name, file.get_tensor(name)
        elif is_script_archive(path):
            yield from read_script_archive(path)
        else:
            yield from _tensors_in(_unpickle(path)).items()
    except (SafetensorError, *ARCHIVE_ERRORS) as error:
        raise _unreadable(path, error) from None


def read_shapes(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """What a single file tells of its model: the settings beside its tensors, and their shapes. Reads no numbers.

    Raises:
        UserError: not a readable file of tensors; names the file.
    """
    try:
        if path.suffix == ".safetensors":
            return {}, _shapes(dict(read_tensors(path)))
        if is_script_archive(path):
            return {}, _shapes(stored_tensors(path))
        content = _unpickle(path)
        return dict(content.get(SETTINGS) or {}), _shapes(_tensors_in(content))
    except (SafetensorError, *ARCHIVE_ERRORS) as error:
        raise _unreadable(path, error) from None


def _shapes(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _unpickle(path: Path) -> dict[str, Any]:
    """A pickled file, memory-mapped where its form allows it; weights and plain values alone."""
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _tensors_in(content: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a pickled file: everything, or what stands below :data:`NESTED`."""
    nested = content.get(NESTED)
    tensors = nested if isinstance(nested, dict) else content
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name!r} is no tensor")
    return tensors


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{path}: not a readable file of tensors ({reason})")


def read_state(path: Path, names: tuple[str, ...] = SINGLE_NAMES) -> dict[str, Tensor]:
    """All tensors of a file or checkpoint folder by name."""
    return {name: tensor for file in weight_files(path, names) for name, tensor in read_tensors(file)}


def write_state(tensors: dict[str, Tensor], folder: Path, shard_bytes: int = 5 * 2**30) -> None:
    """Write tensors as ``model.safetensors``, or as shards with an index when larger than ``shard_bytes``."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if size and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor.contiguous()
        size += tensor.nbytes
    if len(shards) == 1:
        save_file(shards[0], folder / SINGLE_NAMES[0], metadata={"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file_name)
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    (folder / INDEX_NAMES[0]).write_text(json.dumps(index, indent=1))
