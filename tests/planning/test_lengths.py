"""Length tables: true, counted once, and not lost when the counting is killed."""

import operator
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tiny_stage import PROMPT, Source, conversations, maker, tiny_processor, write_annotations
from tiny_tokenizers import tiny_tokenizer

from vidtune.data.tables import AnnotationFile, AnnotationTable
from vidtune.errors import UserError
from vidtune.machine.parallel_work import work_in_processes
from vidtune.planning import lengths
from vidtune.planning.lengths import ExampleMaker, LengthTable, open_lengths, table_path
from vidtune.processing.processor import VideoLMProcessor


@pytest.fixture
def table(tmp_path: Path) -> AnnotationTable:
    (tmp_path / "media").mkdir()
    samples = conversations(57)
    samples[7]["video"] = "../outside.mp4"
    mixed = write_annotations(tmp_path / "mixed.json", samples)
    text = write_annotations(tmp_path / "text.json", conversations(20, media=False))
    return AnnotationTable.open([Source(mixed, tmp_path / "media"), Source(text)], tmp_path / "cache")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the chunks that are counted in this process."""
    numbers: list[int] = []
    real = lengths.count_chunk

    def count(*arguments: object) -> None:
        numbers.append(arguments[-1])  # type: ignore[arg-type]
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(lengths, "count_chunk", count)
    monkeypatch.setattr(lengths, "CHUNK", 10)
    return numbers


def expected(table: AnnotationTable, make: ExampleMaker) -> LengthTable:
    rows = np.zeros((5, len(table)), np.int32)
    for index in range(len(table)):
        if index != 7:
            example = make(table[index])
            streams = [slot.stream for slot in example.media]
            media = sum(np.sum(example.input_ids == place) for place in make.processor.placeholder_ids.values())
            rows[:, index] = (
                len(example), example.num_supervised, media, streams.count("image"), streams.count("video")
            )  # fmt: skip
    return LengthTable(rows[0], rows[1], rows[2], {"image": rows[3], "video": rows[4]})


def test_the_table_tells_what_the_processor_makes_and_zeros_for_what_it_refuses(
    table: AnnotationTable, tmp_path: Path
) -> None:
    make = maker()
    found = open_lengths(table, make, tmp_path / "cache")
    assert found.tokens[7] == 0
    assert found.tokens.max() == make.max_expanded_length
    assert found.fingerprint == expected(table, make).fingerprint
    assert np.array_equal(found.media_tokens, expected(table, make).media_tokens)


def test_a_table_without_some_samples_keeps_the_others_lengths(table: AnnotationTable, tmp_path: Path) -> None:
    whole = open_lengths(table, maker(), tmp_path / "cache")
    part = open_lengths(table.without(["mixed:7", "text:0"]), maker(), tmp_path / "cache")
    kept = np.delete(np.arange(77), [7, 57])
    assert np.array_equal(part.tokens, whole.tokens[kept])
    assert np.array_equal(part.items["video"], whole.items["video"][kept])


def test_samples_that_are_not_wanted_are_not_looked_at(
    table: AnnotationTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = open_lengths(table, maker(), tmp_path / "whole")
    looked_at: list[int] = []
    sample = AnnotationFile.sample
    monkeypatch.setattr(AnnotationFile, "sample", lambda file, n: looked_at.append(n) or sample(file, n))
    for wanted in ([0, 15, 56], [1, 15]):
        part = AnnotationTable(table.files[:1], np.array(wanted))
        lengths = open_lengths(part, maker(), tmp_path / "cache")
        assert np.array_equal(lengths.tokens, whole.tokens[wanted]) and lengths.tokens.all()
    assert looked_at == [0, 15, 56, 1]


def test_lengths_are_counted_once_and_mapped_from_disk(
    table: AnnotationTable, tmp_path: Path, counted: list[int]
) -> None:
    seen: list[tuple[str, int, int]] = []
    open_lengths(table, maker(), tmp_path / "cache", progress=lambda *news: seen.append(news))
    assert sorted(counted) == [0, 0, 1, 1, 2, 3, 4, 5]
    assert seen[0] == ("tokens of mixed", 0, 57)
    assert seen[-1] == ("tokens of text", 20, 20)
    again = open_lengths(AnnotationTable(table.files[:1]), maker(), tmp_path / "cache")
    assert len(counted) == 8
    assert isinstance(again.tokens, np.memmap)
    assert not list((tmp_path / "cache").glob("*.chunks"))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda: maker(max_length=301), False),
        (lambda: maker(max_expanded_length=279), False),
        (lambda: maker(prompt=next(name for name in tiny_processor().prompts if name != PROMPT)), False),
        (lambda: maker(tiny_processor(frames=5)), False),
        (lambda: maker(VideoLMProcessor(tiny_tokenizer(legacy=False), tiny_processor().system, STREAMS)), False),
        (lambda: maker(tiny_processor().with_preprocessing({"video": {"sampling": "arange"}})), False),
        (lambda: maker(tiny_processor().with_preprocessing({"video": {"flip_probability": 0.5}})), True),
        (lambda: maker(), True),
    ],
    ids=["length", "expanded", "prompt", "frames", "tokenizer", "sampling rule", "flip", "nothing"],
)
def test_what_decides_the_tokens_decides_the_table(change: Callable[[], ExampleMaker], same: bool) -> None:
    assert (change().key() == maker().key()) == same


STREAMS = tiny_processor().streams


def test_other_annotations_and_a_missing_media_folder_have_tables_of_their_own(
    table: AnnotationTable, tmp_path: Path
) -> None:
    mixed, text = table.files
    paths = {table_path(file, "key", tmp_path) for file in (mixed, text)}
    without_folder = AnnotationTable.open([Source(mixed.path)], tmp_path / "cache").files[0]
    moved = AnnotationTable.open([Source(mixed.path, tmp_path)], tmp_path / "cache").files[0]
    assert len({*paths, table_path(without_folder, "key", tmp_path)}) == 3
    assert table_path(moved, "key", tmp_path) in paths
    faster = AnnotationTable.open([Source(mixed.path, tmp_path, frame_rate=2.0)], tmp_path / "cache").files[0]
    assert table_path(faster, "key", tmp_path) not in paths
    # Where the files themselves decide the numbers of tokens, the folder counts.
    assert table_path(moved, "key", tmp_path, by_media=True) != table_path(mixed, "key", tmp_path, by_media=True)


def test_counting_that_is_interrupted_goes_on_where_it_was(
    table: AnnotationTable, tmp_path: Path, counted: list[int]
) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_lengths(table, maker(), tmp_path / "cache", progress=interrupt)
    assert counted == [0, 1]
    found = open_lengths(table, maker(), tmp_path / "cache")
    assert sorted(counted) == [0, 0, 1, 1, 2, 3, 4, 5]
    assert found.fingerprint == expected(table, maker()).fingerprint


@pytest.mark.parametrize("damage", ["cut", "other", "folder of pickles", "pairs"])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_damaged_table_is_counted_again_and_that_is_said(
    suffix: str, damage: str, table: AnnotationTable, tmp_path: Path, counted: list[int]
) -> None:
    first = AnnotationTable(table.files[1:])
    whole = open_lengths(first, maker(), tmp_path / "cache").fingerprint
    [path] = (tmp_path / "cache").glob(f"lengths-*{suffix}")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "other":
        path.write_bytes(b"not a table")
    elif damage == "folder of pickles":
        with path.open("wb") as file:
            np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    elif suffix == ".npy":
        path.write_bytes((tmp_path / "cache" / path.name).read_bytes().replace(b"(5, 20)", b"(4, 25)"))
    else:
        stored = dict(np.load(path)) | {"samples": np.array([99]), "files": np.array([0])}
        np.savez(path, **stored)
    counted.clear()
    with pytest.warns(UserWarning, match=rf"lengths-\w+\{suffix}|lengths-\w+\.npy: damaged .*counted again"):
        again = open_lengths(first, maker(), tmp_path / "cache")
    assert again.fingerprint == whole and counted == [0, 1]


def test_a_damaged_chunk_is_counted_again(table: AnnotationTable, tmp_path: Path, counted: list[int]) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_lengths(table, maker(), tmp_path / "cache", progress=interrupt)
    [chunk] = (tmp_path / "cache").glob("*.chunks/000001.npz")
    chunk.write_bytes(chunk.read_bytes()[:50])
    with pytest.warns(UserWarning, match=r"000001\.npz: damaged"):
        found = open_lengths(table, maker(), tmp_path / "cache")
    assert counted[:3] == [0, 1, 1]
    assert found.fingerprint == expected(table, maker()).fingerprint


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.whole
def test_counting_that_is_killed_goes_on_where_it_was_and_leaves_no_process(
    tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lengths, "CHUNK", 10)
    annotations = write_annotations(tmp_path / "train.json", conversations(60, media=False) * 10)
    cache = tmp_path / "cache"
    command = [
        sys.executable,
        str(Path(__file__).parents[1] / "support" / "count_lengths.py"),
        str(annotations),
        str(cache),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        deadline = time.monotonic() + 120
        while len(done := list(cache.glob("*.chunks/??????.npz"))) < 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        workers = [int(child) for child in children(process.pid)]
        process.send_signal(signal.SIGKILL)
        assert process.stdout is not None
        assert process.stdout.read() == "started\n"
    assert workers
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    left = set(range(60)) - {int(path.stem) for path in cache.glob("*.chunks/??????.npz")}
    assert len(done) >= 3 and left
    table = AnnotationTable.open([Source(annotations)], cache)
    found = open_lengths(table, maker(), cache)
    assert set(counted) == left and len(counted) == len(left)
    assert len(found) == len(table)
    assert np.array_equal(found.tokens, np.tile(found.tokens[:60], 10))
    assert found.tokens.min() > 0


def children(pid: int) -> list[str]:
    """All processes below one."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [child, *children(int(child))]
    return found


def test_a_worker_that_fails_shows_why_and_one_that_dies_is_no_riddle() -> None:
    assert sorted(work_in_processes(partial(operator.floordiv, 1), [4, 1, 2, 3], 2)) == [1, 2, 3, 4]
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        list(work_in_processes(partial(operator.floordiv, 1), [0], 2))
    with pytest.raises(IsADirectoryError) as caught:  # what a user can mend comes as it is
        list(work_in_processes(partial(operator.call, partial(os.open, "/", os.O_WRONLY)), [0], 1))
    assert caught.value.filename == "/"
    with pytest.raises(UserError, match="a worker process died"):
        list(work_in_processes(os._exit, [3], 1))


def test_features_that_come_later_are_counted_anew(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    samples = [{"id": name, **sample} for name, sample in zip("ab", conversations(2, media=False), strict=True)]
    for sample in samples:
        sample["conversations"][0]["value"] = "<video>\n?"
    source = Source(write_annotations(tmp_path / "stored.json", samples), None, {"video": folder})
    make, cache = maker(), tmp_path / "cache"
    tokens = make.processor.streams["video"].num_tokens
    np.save(folder / "a.npy", np.zeros((tokens, 6), np.float16))

    def counted() -> list[int]:
        return (open_lengths(AnnotationTable.open([source], cache), make, cache).tokens > 0).tolist()

    assert counted() == [True, False]
    np.save(folder / "b.npy", np.zeros((tokens, 6), np.float16))
    os.utime(folder, ns=(0, folder.stat().st_mtime_ns + 1))
    assert counted() == [True, True]
