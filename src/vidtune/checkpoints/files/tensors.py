"""Files of named tensors, read and written: safetensors or pickled, single or in shards. No code in them is executed.

A :class:`TensorFile` is opened when it is first asked, and only once. Safetensors and ``.bin`` files are memory-mapped.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vidtune.checkpoints.files.misplaced import elsewhere
from vidtune.errors import UserError
from vidtune.foreign.containment import is_inside, stays_below
from vidtune.foreign.documents import read_object
from vidtune.foreign.files import open_foreign
from vidtune.foreign.safetensors_files import SafetensorsFile
from vidtune.foreign.torch_files import Module, StoredTensor, StrangeTensor, TorchFile

INDEX_NAMES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE_NAMES = ("model.safetensors", "pytorch_model.bin")
PICKLED = (".pt", ".pth")
"""Endings of pickled files that are published alone, under any name."""
LFS_POINTER = b"version https://git-lfs"
"""Start of the small text file that Git LFS puts in the place of a large one."""
WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Dtypes of weights that can be read."""
NESTED, SETTINGS = "model", "cfg"
"""Pickled training checkpoints hold their tensors, and the settings of their model, below these keys."""


class _Opened(Protocol):
    """An open file of tensors."""

    settings: dict[str, Any]

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def read(self, name: str) -> Tensor: ...


class TensorFile:
    """A file of named tensors.

    A pickled file may hold its tensors below the key ``model``. A TorchScript archive is read, not run.

    Raises:
        UserError: not a readable file of tensors; names the file. Raised when the file is first asked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that the file holds beside its tensors; empty without any."""
        return self._opened.settings

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor by name; values are not read where the format allows it."""
        return self._opened.shapes

    def read(self, name: str) -> Tensor:
        """Return a tensor. Raises UserError where it holds NaN or Inf; names the file and the tensor."""
        with _readable(self.path):
            tensor = self._opened.read(name)
        if not is_finite(tensor):
            bad = int(tensor.numel() - tensor.isfinite().sum())
            raise UserError(
                f"{self.path}: {name}: {bad} of {tensor.numel()} values are NaN or Inf; copy the file again, or take "
                "an earlier checkpoint of the run that wrote it"
            )
        return tensor

    def close(self) -> None:
        """Give the mapped file back; asking again opens it again."""
        self.__dict__.pop("_opened", None)

    @cached_property
    def _opened(self) -> _Opened:
        with _readable(self.path):
            return _Safetensors(self.path) if self.path.suffix == ".safetensors" else _Torch(self.path)


def is_finite(tensor: Tensor) -> bool:
    """Whether all floating-point numbers of a tensor are finite. One fast pass, without a copy."""
    if not tensor.is_floating_point() or tensor.itemsize < 2 or tensor.is_meta or not tensor.numel():
        return True
    return all(math.isfinite(extreme) for extreme in torch.aminmax(tensor.detach()))


class _Safetensors:
    """A safetensors file; tensors are views of the mapped file."""

    settings: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, path: Path) -> None:
        with open_foreign(path) as file:
            self._file = SafetensorsFile(file)
        self.shapes = {name: place.shape for name, place in self._file.places.items()}

    def read(self, name: str) -> Tensor:
        return self._file.read(name)


class _Torch:
    """A file that torch wrote: weights and plain values only. Tensors are views of the mapped file."""

    def __init__(self, path: Path) -> None:
        with open_foreign(path) as file:
            self._file = TorchFile(file)
        content = self._file.content
        if self._file.is_script:
            content = dict(_named_tensors(content, ""))
        if not isinstance(content, dict):
            raise TypeError(f"it holds {type(content).__name__} where named tensors are expected")
        nested = content.get(NESTED)
        self._tensors: dict[str, StoredTensor] = nested if isinstance(nested, dict) else content
        for name, value in self._tensors.items():
            if not isinstance(name, str):
                raise TypeError(f"the key {str(name)[:40]!r} is no name of a tensor")
            if not isinstance(value, StoredTensor):
                found = f": it is a {value.kind}" if isinstance(value, StrangeTensor) else ""
                raise TypeError(f"{name!r} is no tensor{found}")
        self.settings = dict(content.get(SETTINGS) or {}) if isinstance(nested, dict) else {}
        self.shapes = {name: tensor.shape for name, tensor in self._tensors.items()}

    def read(self, name: str) -> Tensor:
        return self._file.read(self._tensors[name])


def _named_tensors(module: Module, prefix: str) -> Iterator[tuple[str, StoredTensor]]:
    for name, value in module.attributes.items():
        if isinstance(value, StoredTensor):
            yield prefix + name, value
        elif isinstance(value, Module):
            yield from _named_tensors(value, f"{prefix}{name}.")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the errors of a broken or strange file, which are of many types, into one line that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: not a readable file of tensors ({_reason(path, error)})") from None


def _reason(path: Path, error: Exception) -> str:
    """What is wrong with a file."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            return "a Git LFS pointer in the place of the file; fetch it with git lfs pull"
    return next(iter(str(error).splitlines()), "") or type(error).__name__


class Tensors(Mapping[str, Tensor]):
    """The tensors of one or several files by name; a value is read when it is asked for.

    Args:
        files: of two files with the same name in them, the later holds.
    """

    def __init__(self, files: Sequence[TensorFile]) -> None:
        self.files = files

    @cached_property
    def _file_of(self) -> dict[str, TensorFile]:
        return {name: file for file in self.files for name in file.shapes}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by name, without reading values where the format allows it."""
        return {name: file.shapes[name] for name, file in self._file_of.items()}

    @property
    def settings(self) -> dict[str, Any]:
        """Settings beside the tensors, of all files together."""
        return {key: value for file in self.files for key, value in file.settings.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._file_of[name].read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def require_floating(name: str, tensor: Tensor, where: str | Path) -> None:
    """Raise UserError where a tensor does not hold floating-point numbers that stand for themselves.

    Numbers in 8 bits or fewer, also floating-point ones, stand for values only with the scales of their quantisation.
    """
    if tensor.dtype not in WEIGHT_DTYPES:
        raise UserError(
            f"{where}: {name}: {str(tensor.dtype).removeprefix('torch.')} where the model has floating-point numbers "
            "(quantised?); take a checkpoint in bfloat16, float16 or float32"
        )


def require_dtypes(module: nn.Module, state: Mapping[str, Tensor], where: str | Path) -> None:
    """Raise UserError for a tensor of another kind than the module has: weights that are not in floating point, or
    counters that are."""
    for name, wanted in module.state_dict().items():
        if name not in state:
            continue
        if wanted.is_floating_point():
            require_floating(name, state[name], where)
        elif state[name].dtype.is_floating_point or state[name].dtype.is_complex:
            raise UserError(f"{where}: {name}: {state[name].dtype} where the model has whole numbers")


def weight_files(path: Path, names: tuple[str, ...] = SINGLE_NAMES) -> list[Path]:
    """Return the files that hold the weights at ``path``: itself, or those of a checkpoint folder.

    Args:
        names: names of a single file in a folder, most wanted first. A folder without any of them may hold one file
            that ends with ``.pt`` or ``.pth``.

    Raises:
        UserError: nothing there, or a shard that the index names is missing.
    """
    if path.exists() and not path.is_dir():
        return [path]
    for index in (path / name for name in INDEX_NAMES):
        if index.is_file():
            return _shards(path, index)
    for name in names:
        if (path / name).is_file():
            return [path / name]
    alone = [file for file in (path.iterdir() if path.is_dir() else ()) if file.suffix in PICKLED]
    if len(alone) == 1:
        return alone
    where = elsewhere(path) or f" (looked for {', '.join((*INDEX_NAMES, *names))})"
    raise UserError(f"{path}: no weights found{where}")


def _shards(path: Path, index: Path) -> list[Path]:
    """The files that an index names; they must lie in its folder."""
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) and "\0" not in name for name in names.values()):
        raise UserError(f"{index}: weight_map: expected the name of a file for each tensor; copy the file again")
    shards = []
    for name in sorted(set(names.values())):
        shard = path / name
        # In the cache of the hub, index and shards are links to a folder beside it.
        if not stays_below(name) or not (index.is_symlink() or is_inside(shard, path)):
            raise UserError(f"{index}: names {shard}, which is outside the folder")
        if not shard.is_file():
            raise UserError(f"{index}: names {shard.name}, which is missing; copy the whole checkpoint")
        shards.append(shard)
    return shards


def read_state(path: Path, names: tuple[str, ...] = SINGLE_NAMES) -> dict[str, Tensor]:
    """Return all tensors of a file or checkpoint folder by name."""
    tensors = Tensors([TensorFile(file) for file in weight_files(path, names)])
    state = dict(tensors)
    for file in tensors.files:
        file.close()
    return state


def write_state(tensors: Mapping[str, Tensor], folder: Path, shard_bytes: int = 5 * 2**30) -> None:
    """Write tensors as ``model.safetensors``, or as shards with an index when larger than ``shard_bytes``.

    Tensors that share memory under two names are written once, under the first name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    tensors = without_repeats(tensors)
    for name, tensor in tensors.items():
        if size and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
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
    (folder / INDEX_NAMES[0]).write_text(json.dumps(index, indent=1), encoding="utf-8")


def without_repeats(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as files need them: contiguous, and of those that are one tensor only the first name."""
    seen: set[tuple[int, torch.Size, tuple[int, ...]]] = set()
    kept = {}
    for name, tensor in tensors.items():
        identity = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and tensor.device.type != "meta":
            if identity in seen:
                continue
            seen.add(identity)
        kept[name] = tensor.contiguous()
    return kept
