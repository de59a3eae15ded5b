"""Random numbers as pure functions of a key such as (seed, epoch, index): a resumed run saves no generator state."""

import hashlib

import numpy as np
import torch


def generator(*key: object) -> np.random.Generator:
    """Returns a numpy generator that is seeded by a key, for example (fingerprint, seed, epoch)."""
    return np.random.Generator(np.random.Philox(key=np.frombuffer(_digest(*key)[:16], np.uint64)))


def torch_generator(*key: object) -> torch.Generator:
    """Returns a torch generator on the CPU that is seeded by a key, for example (fingerprint, seed, epoch)."""
    return torch.Generator().manual_seed(int.from_bytes(_digest(*key)[:7], "little"))


def random_seed(*key: int) -> int:
    """Returns a seed for `seed_torch` that is derived from a key, for example (recipe seed, step, pack)."""
    return int(np.random.SeedSequence([abs(number) for number in key]).generate_state(1, np.uint64)[0]) >> 2


def seed_torch(seed: int) -> None:
    """Seed the generators of torch, of the CPU and of the accelerators that there are.

    `torch.manual_seed` takes a stack trace for each kind of accelerator that torch knows and the machine lacks, each
    time: milliseconds, in every step.
    """
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def _digest(*key: object) -> bytes:
    return hashlib.sha256(" ".join(map(str, key)).encode()).digest()
