"""Counts which files a piece of code opens: by Python, and by the safetensors library, which Python does not see."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import transformers.modeling_utils

_listening: list[Counter[Path]] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _listening and isinstance(arguments[0], str | os.PathLike):
        for counter in _listening:
            counter[Path(arguments[0]).resolve()] += 1


sys.addaudithook(_hear)  # stays for the life of the process; does nothing outside opened_files()


@contextmanager
def opened_files(folder: Path) -> Iterator[Counter[str]]:
    """Count how often every file below a folder is opened within the block, by its path in the folder."""
    counter: Counter[Path] = Counter()
    named: Counter[str] = Counter()
    real = safetensors.safe_open

    def safe_open(path: Any, *arguments: Any, **options: Any) -> Any:
        counter[Path(path).resolve()] += 1
        return real(path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        for module in (safetensors, safetensors.torch, transformers.modeling_utils):
            patch.setattr(module, "safe_open", safe_open)
        _listening.append(counter)
        try:
            yield named
        finally:
            _listening.remove(counter)
    root = folder.resolve()
    for path, times in counter.items():
        if path.is_relative_to(root):
            named[str(path.relative_to(root))] = times
