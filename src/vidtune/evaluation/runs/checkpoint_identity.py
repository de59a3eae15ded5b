"""Identity of what was evaluated: the content of the checkpoint."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from vidtune.checkpoints.files.misplaced import elsewhere
from vidtune.errors import UserError

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

    from transformers import PreTrainedModel

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".json", ".model")
WHOLE_FILE_LIMIT = 64 * 2**20
SAMPLED_BLOCKS = 64
BLOCK_BYTES = 2**18


class CheckpointIdentity(BaseModel):
    """Which weights answered.

    Args:
        path: where the checkpoint was.
        fingerprint: hash of its content; equal fingerprints are the same checkpoint, wherever it lies.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    fingerprint: str


def identify_checkpoint(path: Path, others: Sequence[str] = ()) -> CheckpointIdentity:
    """Returns the identity of a checkpoint folder or file.

    Args:
        others: folders, files or names of the models that complete it.
    """
    fingerprint = checkpoint_fingerprint(path)
    for other in others:
        below = checkpoint_fingerprint(Path(other)) if Path(other).exists() else other
        fingerprint = hashlib.sha256(f"{fingerprint} on {below}".encode()).hexdigest()[:16]
    return CheckpointIdentity(path=str(path.resolve()), fingerprint=fingerprint)


def checkpoint_fingerprint(path: Path) -> str:
    """Returns a hash over names, sizes and bytes of weights, configuration and tokenizer.

    Files up to 64 MiB are read whole. Of larger files, 64 evenly spaced blocks of 256 KiB are read, the first and the
    last included: a 14 GB checkpoint then takes a moment, and any training step still changes the hash.
    """
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint")
    # Adapters of components other than the language model lie in folders of their own.
    inside = [path] if path.is_file() else [*path.iterdir(), *path.glob("*/adapter_model.safetensors")]
    files = sorted(file for file in inside if file.suffix in WEIGHT_SUFFIXES)
    if not files:
        where = elsewhere(path) or "; give a checkpoint folder"
        raise UserError(f"{path}: no weights or configuration in this folder{where}")
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(json.dumps([str(file.relative_to(path)) if file != path else file.name, size]).encode())
        add_content(digest, file)
    return digest.hexdigest()[:16]


def add_content(digest: "Hash", file: Path, whole: int = WHOLE_FILE_LIMIT, blocks: int = SAMPLED_BLOCKS) -> None:
    """Add the bytes of a file to a hash: all up to a size of ``whole``, else ``blocks`` evenly spaced ones of 256 KiB.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as content:
        size = os.fstat(content.fileno()).st_size
        if size <= whole:
            digest.update(content.read())
            return
        for block in range(blocks):
            content.seek(block * (size - BLOCK_BYTES) // (blocks - 1))
            digest.update(content.read(BLOCK_BYTES))


def identify_model(model: "PreTrainedModel", tokenizer: Any) -> CheckpointIdentity:
    """Returns the identity of a model in memory: a hash of its configuration, its vocabulary and its weights.

    Tensors are read like files (see `checkpoint_fingerprint`): up to 64 MiB whole, of larger ones 64 blocks. The folder
    that holds the same weights has another identity, because there the bytes of the files are hashed.
    """
    import torch

    digest = hashlib.sha256(json.dumps(_settings(model.config.to_dict()), sort_keys=True, default=str).encode())
    digest.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        content = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        size = len(content)
        starts, length = [0], size
        if size > WHOLE_FILE_LIMIT:
            starts = [block * (size - BLOCK_BYTES) // (SAMPLED_BLOCKS - 1) for block in range(SAMPLED_BLOCKS)]
            length = BLOCK_BYTES
        for start in starts:
            digest.update(content[start : start + length].cpu().numpy().tobytes())
    return CheckpointIdentity(path="in memory", fingerprint=digest.hexdigest()[:16])


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what says only where it came from and who wrote it."""
    return {
        key: _settings(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in ("_name_or_path", "transformers_version")
    }
