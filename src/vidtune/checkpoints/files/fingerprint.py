"""Fingerprint of a checkpoint: a hash of its content, which is the same wherever it lies."""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from vidtune.checkpoints.files.misplaced import elsewhere
from vidtune.errors import UserError
from vidtune.foreign.files import open_foreign

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

CONTRAST = "contrast"
"""Folder of a result that holds what a contrastive stage compared its towers with."""
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".json", ".model")
WHOLE_FILE_LIMIT = 64 * 2**20
SAMPLED_BLOCKS = 64
BLOCK_BYTES = 2**18


def checkpoint_fingerprint(path: Path) -> str:
    """Returns a hash over names, sizes and bytes of weights, configuration and tokenizer.

    Files up to 64 MiB are read whole. Of larger files, 64 evenly spaced blocks of 256 KiB are read, the first and the
    last included: a 14 GB checkpoint then takes a moment, and any training step still changes the hash.
    """
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint")
    # Adapters of components other than the language model lie in folders of their own.
    below = ("*/adapter_model.safetensors", f"{CONTRAST}/*")
    inside = [*path.iterdir(), *(file for one in below for file in path.glob(one))] if path.is_dir() else [path]
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
        UserError: the file cannot be opened, or is no regular file.
        OSError: the file cannot be read.
    """
    with open_foreign(file) as content:
        size = os.fstat(content.fileno()).st_size
        if size <= whole:
            digest.update(content.read())
            return
        for block in range(blocks):
            content.seek(block * (size - BLOCK_BYTES) // (blocks - 1))
            digest.update(content.read(BLOCK_BYTES))
