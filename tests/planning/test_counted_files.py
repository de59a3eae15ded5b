"""A length is a fact of the files that it was counted from: other files are counted anew, failures are never kept."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_clips import write_clip
from tiny_stage import Source, maker, tiny_processor, write_annotations

from vidtune.data.tables import AnnotationTable
from vidtune.planning import lengths
from vidtune.planning.lengths import ExampleMaker, open_lengths

PER_FRAME = 5


def variable_maker() -> ExampleMaker:
    """A maker whose videos have a frame for every second, each of ``PER_FRAME`` tokens."""
    processor = tiny_processor(frames=8)
    video = processor.streams["video"]
    preprocessing = video.preprocessing.model_copy(update={"sampling": "per_second"})
    tokens = {"x".join(map(str, shape)): PER_FRAME * shape[1] for shape in preprocessing.output_shapes()}
    processor.streams["video"] = video.model_copy(update={"preprocessing": preprocessing, "num_tokens": tokens})
    return maker(processor)


def questions(files: Iterable[str]) -> list[dict[str, Any]]:
    turns = [{"from": "human", "value": "<video>\n?"}, {"from": "gpt", "value": "a dog"}]
    return [{"video": file, "conversations": turns} for file in files]


def write_quietly(path: Path, content: bytes) -> None:
    """Replace a file by one of the same size and time of modification."""
    before = path.stat()
    path.write_bytes(content.ljust(before.st_size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Samples that are counted, call by call."""
    calls: list[list[int]] = []
    real = lengths.count_samples

    def count(file: Any, make: Any, indices: Iterable[int]) -> Any:
        calls.append(list(indices))
        return real(file, make, indices)

    monkeypatch.setattr(lengths, "count_samples", count)
    return calls


def test_mended_and_replaced_videos_are_counted_anew_and_no_others(tmp_path: Path, counted: list[list[int]]) -> None:
    media = tmp_path / "media"
    media.mkdir()
    for name, frames in (("a", 2), ("b", 4), ("c", 2)):
        write_clip(media / f"{name}.mp4", num_frames=frames)
    whole = (media / "a.mp4").read_bytes()
    (media / "a.mp4").write_bytes(whole[: len(whole) // 2])  # half copied
    source = Source(write_annotations(tmp_path / "train.json", questions(["a.mp4", "b.mp4", "c.mp4"])), media)
    cache = tmp_path / "cache"

    def media_tokens(*excluded: str) -> list[int]:
        table = AnnotationTable.open([source], cache)
        return open_lengths(table.without(excluded), variable_maker(), cache).media_tokens.tolist()

    assert media_tokens() == [0, 4 * PER_FRAME, 2 * PER_FRAME]
    assert counted == [[0, 1, 2], [0]]  # what could not be counted is tried again
    (media / "a.mp4").write_bytes(whole)
    assert media_tokens("train:0") == [4 * PER_FRAME, 2 * PER_FRAME]
    assert media_tokens() == [2 * PER_FRAME, 4 * PER_FRAME, 2 * PER_FRAME]
    assert counted[2:] == [[0]]
    write_quietly(media / "b.mp4", write_clip(tmp_path / "other.mp4", num_frames=3).read_bytes())
    assert media_tokens() == [2 * PER_FRAME, 3 * PER_FRAME, 2 * PER_FRAME]
    assert media_tokens() == [2 * PER_FRAME, 3 * PER_FRAME, 2 * PER_FRAME]
    assert counted[3:] == [[1]]
    (media / "c.mp4").unlink()
    assert media_tokens() == [2 * PER_FRAME, 3 * PER_FRAME, 0]


@pytest.mark.parametrize("named", ["by id", "by path"])
def test_a_replaced_feature_file_is_counted_anew(named: str, tmp_path: Path) -> None:
    processor = tiny_processor()
    video = processor.streams["video"]
    processor.streams["video"] = video.model_copy(update={"num_tokens": "1"})
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder, rows in zip(folders, (4, 6), strict=True):
        folder.mkdir()
        np.save(folder / "a.npy", np.zeros((rows, 6), np.float16))
    samples = [{"id": "a", **sample} for sample in questions(["a.npy"])]
    if named == "by id":
        del samples[0]["video"]
    annotations = write_annotations(tmp_path / "train.json", samples)

    def counted(folder: Path) -> list[int]:
        source = Source(annotations, None, {"video": folder}) if named == "by id" else Source(annotations, folder)
        table = AnnotationTable.open([source], tmp_path / "cache")
        return open_lengths(table, maker(processor), tmp_path / "cache").media_tokens.tolist()

    assert [counted(folder) for folder in (*folders, *folders)] == [[4], [6], [4], [6]]
    np.save(tmp_path / "longer.npy", np.zeros((6, 4), np.float16))
    write_quietly(folders[0] / "a.npy", (tmp_path / "longer.npy").read_bytes())
    assert counted(folders[0]) == [6]


@pytest.mark.parametrize(("mended", "whole_table"), [([], False), (["b.mp4", "c.mp4", "d.mp4"], True)])
def test_samples_that_stay_unusable_do_not_build_the_whole_table_again(
    mended: list[str], whole_table: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = tmp_path / "media"
    media.mkdir()
    write_clip(media / "a.mp4", num_frames=2)
    names = ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    source = Source(write_annotations(tmp_path / "train.json", questions(names)), media)

    def counts() -> list[int]:
        table = AnnotationTable.open([source], tmp_path / "cache")
        return open_lengths(table, variable_maker(), tmp_path / "cache", workers=2).media_tokens.tolist()

    assert counts() == [2 * PER_FRAME, 0, 0, 0]
    for name in mended:
        write_clip(media / name, num_frames=2)
    builds, really = [], lengths._build
    monkeypatch.setattr(lengths, "WORTH_PROCESSES", 3)
    monkeypatch.setattr(lengths, "work_in_processes", lambda work, numbers, _: lengths._count_here(work, numbers))
    monkeypatch.setattr(lengths, "_build", lambda *given: builds.append(1) or really(*given))
    assert counts() == [2 * PER_FRAME, *([2 * PER_FRAME if mended else 0] * 3)]
    assert bool(builds) == whole_table


def test_a_table_of_another_media_folder_tells_nothing(tmp_path: Path) -> None:
    annotations = write_annotations(tmp_path / "train.json", questions(["a.npy"]))
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    np.save(tmp_path / "good/a.npy", np.zeros((4, 6), np.float16))
    (tmp_path / "bad/a.npy").write_text("no array")
    for name in ("good", "bad", "good"):
        table = AnnotationTable.open([Source(annotations, tmp_path / name)], tmp_path / "cache")
        found = open_lengths(table, maker(), tmp_path / "cache")
        assert (found.tokens[0] > 0) == (name == "good")


@pytest.mark.parametrize("killed_in", [(lengths, "save_atomic"), (lengths.CountedFiles, "save")])
def test_a_kill_between_table_and_list_only_makes_samples_be_counted_again(
    killed_in: tuple[Any, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media, cache = tmp_path / "media", tmp_path / "cache"
    media.mkdir()
    write_clip(media / "a.mp4", num_frames=2)
    source = Source(write_annotations(tmp_path / "train.json", questions(["a.mp4"])), media)

    def media_tokens() -> list[int]:
        return open_lengths(AnnotationTable.open([source], cache), variable_maker(), cache).media_tokens.tolist()

    assert media_tokens() == [2 * PER_FRAME]
    write_clip(media / "a.mp4", num_frames=3)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(*killed_in, killed)
        media_tokens()
    assert media_tokens() == [3 * PER_FRAME]
    write_clip(media / "a.mp4", num_frames=4)
    assert media_tokens() == [4 * PER_FRAME]
