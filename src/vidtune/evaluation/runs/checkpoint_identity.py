"""Identity of what was evaluated: the content of the checkpoint."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from vidtune.checkpoints.files.fingerprint import BLOCK_BYTES, SAMPLED_BLOCKS, WHOLE_FILE_LIMIT, checkpoint_fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CheckpointIdentity(BaseModel):
    """Which weights answered.

    Args:
        path: where the checkpoint was.
        fingerprint: hash of its content; equal fingerprints are the same checkpoint, wherever it lies.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    fingerprint: str

    @property
    def name(self) -> str:
        """Last part of the path, or of a hub id."""
        return Path(self.path).name


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
