"""Places of checkpoints: a local path, or a repository of the Hugging Face hub, pinned as ``org/name@revision``.

Of a repository only the files of one format are fetched: of each group of weights (``model``, ``adapter_model``, ...)
the safetensors if there are any, else ``.bin``; ``.pt`` and ``.pth`` only where the repository has neither.
"""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from vidtune.errors import UserError
from vidtune.machine.files import looked_for, require_text

_REPOSITORY = re.compile(r"(?P<name>[^/@]+/[^/@]+)(@(?P<revision>.+))?")
_SETTINGS = (".json", ".model", ".txt", ".jinja")
_SHARD = re.compile(r"-\d+-of-\d+$")
_OF_TRAINING = re.compile(r"(optimizer|scheduler|training_args|rng_state|trainer_state|scaler)\b")
"""Files of a training run, which no model needs."""
_ADAPTERS = ("adapter_config", "adapter_model")
"""Files that are also wanted from folders inside a repository: adapters of other components than the language model."""


def pinned(name_or_path: str, revision: str | None) -> str:
    """Return the place with a revision attached: ``org/name@revision``.

    Raises:
        UserError: a revision for a local path, or for a name that has one already.
    """
    if revision is None:
        return name_or_path
    if Path(name_or_path).expanduser().exists() or not _REPOSITORY.fullmatch(name_or_path):
        raise UserError(f"{name_or_path}: is no hub id, so it has no revision {revision!r}")
    if "@" in name_or_path:
        raise UserError(f"{name_or_path}: names a revision already; leave {revision!r} out")
    return f"{name_or_path}@{revision}"


def locate(name_or_path: str, weights: bool = True) -> Path:
    """Return the local path of a file or folder, or of the downloaded snapshot of a hub repository.

    Args:
        name_or_path: local path, ``org/name`` or ``org/name@revision`` (branch, tag or commit).
        weights: False downloads configs and tokenizers only.

    Raises:
        UserError: no such path, and no such repository (or the hub cannot be reached and there is no copy here).
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        require_text(path)
        return path
    repository = _REPOSITORY.fullmatch(name_or_path)
    if name_or_path.startswith((".", "/", "~")) or repository is None or path.parent.is_dir():
        raise UserError(f"{name_or_path}: no such file or folder{looked_for(path)}")
    try:
        return _snapshot(repository["name"], repository["revision"], weights)
    except Exception as error:  # the hub's errors share no base class
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{name_or_path}: no such folder here, and not from the hub ({reason}); download it and give its path"
        ) from None


def _snapshot(name: str, revision: str | None, weights: bool) -> Path:
    """Download the files that are needed; without the hub, take the snapshot that an earlier download left."""
    import huggingface_hub  # weight: only models from the hub need it

    try:
        files = huggingface_hub.HfApi().list_repo_files(name, revision=revision)
    except Exception:
        try:
            return Path(huggingface_hub.snapshot_download(name, revision=revision, local_files_only=True))
        except Exception:
            pass
        raise
    return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=wanted_files(files, weights)))


def wanted_files(files: Iterable[str], weights: bool = True) -> list[str]:
    """Names of the files of a repository that loading needs, sorted.

    Args:
        files: names of all files of the repository.
        weights: False leaves the weights out.
    """
    near = [name for name in files if "/" not in name or PurePosixPath(name).stem in _ADAPTERS]
    wanted = {name for name in near if name.endswith(_SETTINGS)}
    if weights:
        found = {kind: _by_group(near, kind) for kind in ((".safetensors",), (".bin",), (".pt", ".pth"))}
        safe, pickled, others = found.values()
        chosen = {**pickled, **safe} or others
        wanted |= {name for names in chosen.values() for name in names}
    return sorted(wanted)


def _by_group(files: Iterable[str], suffixes: tuple[str, ...]) -> dict[str, list[str]]:
    """Weight files by what they hold together: shards of one model, whatever the library that wrote them."""
    groups: dict[str, list[str]] = {}
    for name in files:
        path = PurePosixPath(name)
        if path.suffix in suffixes and not _OF_TRAINING.match(path.name):
            stem = _SHARD.sub("", path.stem).removeprefix("pytorch_")
            groups.setdefault(str(path.with_name(stem)), []).append(name)
    return groups
