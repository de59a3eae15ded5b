"""Many damaged files in one command, where a command takes many and tells them apart: media and feature files."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from material import write_features, write_media, write_recipe, write_samples
from training_world import conversation

PICTURES = (".jpg", ".png", ".webp", ".bmp", ".tiff")


@dataclass(frozen=True)
class Batch:
    """Files of which many damaged copies are given to one command.

    Args:
        build: writes whole files into the folder ``sources``.
        finish: writes what the command needs beside the copies, which are in the folder ``media``.
        command: the command.
        refused: JSON lines that the command writes, of each refused file with the reason.
        size: number of copies.
        share: how often this batch has its turn, in a round of all targets.
    """

    build: Callable[[Path], None]
    finish: Callable[[Path, list[Path]], None]
    command: tuple[str, ...]
    refused: str
    size: int = 100
    share: int = 1


def copied(source: Path, folder: Path, number: int) -> Path:
    """A copy of a file or of a folder of frames, under the name of its number."""
    copy = folder / f"d{number}{source.suffix}"
    copy.parent.mkdir(exist_ok=True)
    if source.is_dir():
        copy.mkdir()
        for frame in sorted(source.iterdir()):
            shutil.copy(frame, copy / f"f{frame.name}")
        return copy
    shutil.copy(source, copy)
    return copy


def media(folder: Path) -> None:
    write_media(folder)
    (folder / "media").rename(folder / "sources")


def media_recipe(folder: Path, copies: list[Path]) -> None:
    samples: list[dict[str, Any]] = [conversation("Hello.", "hello.")]
    for copy in copies:
        kind = "image" if copy.suffix in PICTURES else "video"
        samples.append(conversation(f"<{kind}>\nWhat?", "a box.", **{kind: copy.name}))
    write_samples(folder, samples)
    write_recipe(folder, max_excluded=1)


def features(folder: Path) -> None:
    write_features(folder / "sources")


CHECK = ("data", "check", "recipe.yaml", "--out", "run")
IMPORT = ("features", "import", "media", "--store", "store", "--name", "mine", "--width", "24")
REFUSED = "run/align/excluded.jsonl"

BATCHES: dict[str, Batch] = {
    "many_decoded": Batch(media, media_recipe, (*CHECK, "--decode"), REFUSED, share=2),
    "many_probed": Batch(media, media_recipe, CHECK, REFUSED),
    "many_features": Batch(features, lambda *_: None, IMPORT, "store/mine/failed.jsonl"),
}
