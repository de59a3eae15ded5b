"""Identity of a tower by its weights; that of a media file: `media.kept.identity`."""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from vidtune.machine.cores import available_cores


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of the names, dtypes, shapes and bytes of all tensors: 64 hex digits."""
    with ThreadPoolExecutor(available_cores()) as crew:
        names = sorted(tensors)
        digests = dict(zip(names, crew.map(lambda name: _tensor_hash(tensors[name]), names), strict=True))
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _tensor_hash(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
