"""Extraction: every file once, whatever is killed, broken or runs at the same time."""

import json
import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feature_world import PREPROCESSING, stream_into, tower, write_clip
from launched import Launcher, Run
from PIL import Image

from vidtune.data.sample import MediaRef
from vidtune.errors import UserError
from vidtune.features.cache import FeatureCache
from vidtune.features.collection import Collection, collections
from vidtune.features.extract import extract
from vidtune.features.media_listing import media_files, refs_of_folder, share_of
from vidtune.features.shards import read_header
from vidtune.features.tower_stream import StreamReport, TowerStream
from vidtune.features.verify import verify
from vidtune.media.pool import MediaPool
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing, VideoPreprocessing

KILLS = [3, pytest.param(10, marks=pytest.mark.whole)]
CLIPS = 24


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for number in range(CLIPS):
        write_clip(folder / f"{number:02d}.mp4", seed=number)
    return folder


def run(folder: Path, *streams: TowerStream, workers: int = 0, **settings: Any) -> dict[str, StreamReport]:
    with MediaPool(workers, 60) as pool:
        return extract(refs_of_folder(folder, streams), {stream.name: stream for stream in streams}, pool, **settings)


def stored(store: Path) -> dict[str, torch.Tensor]:
    """All features of a store with one collection, by item."""
    (folder,) = collections(store)
    collection = Collection(folder)
    return {item: found for item in collection.items() if (found := collection.get(item)) is not None}


def holders(store: Path) -> Counter[str]:
    """In how many shards every item is."""
    (folder,) = collections(store)
    return Counter(item for path in (folder / "shards").glob("*.safetensors") for item in read_header(path).places)


@pytest.fixture(scope="module")
def expected(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What an undisturbed run stores."""
    store = tmp_path_factory.mktemp("whole")
    report = run(clips, stream_into(store), batch_size=1)["video"]
    assert (report.stored, report.found, report.absent, report.failed) == (CLIPS, 0, 0, [])
    return stored(store)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [item for item in expected if not torch.equal(found[item], expected[item])] == []


EXTRACT = "extraction:extract_here"


def wait_for_shards(store: Path, number: int, started: Run) -> None:
    """Return when a run has written so many, or has ended."""
    while len(list(store.glob("*/shards/*.safetensors"))) < number and started.is_running():
        time.sleep(0.002)


@pytest.mark.parametrize("wanted", KILLS)
def test_killed_at_random_moments_nothing_is_lost_or_doubled(
    clips: Path, launcher: Launcher, expected: dict[str, torch.Tensor], tmp_path: Path, wanted: int
) -> None:
    moments, kills, halves, round_ = random.Random(3), 0, 0, 0
    while kills < wanted:
        store = tmp_path / str(round_)
        round_ += 1
        known: set[str] = set()
        while kills < wanted:
            started = launcher.call(EXTRACT, tmp_path / "printed", str(clips), str(store))
            if moments.random() < 0.8:
                wait_for_shards(store, len(known) // 2 + moments.randrange(6), started)
            time.sleep(moments.uniform(0.0, 0.02))
            with suppress(ProcessLookupError):
                os.kill(started.processes[0], signal.SIGKILL)
            if started.exit_codes() == [0]:
                break  # it was quicker
            kills += 1
            now = set(stored(store)) if list(collections(store)) else set()
            assert known <= now, "what was stored is gone"
            halves += 0 < len(now) < CLIPS
            known = now
        assert launcher.call(EXTRACT, tmp_path / "printed", str(clips), str(store)).exit_codes() == [0]
        assert_same(stored(store), expected)
        assert set(holders(store).values()) == {1}
        (checked,) = verify(store)
        assert (checked.items, checked.twice, checked.problems) == (CLIPS, 0, [])
    assert halves, "no kill hit the middle of a run"


def test_processes_share_the_files_and_the_store(
    clips: Path, launcher: Launcher, expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    printed = tmp_path / "printed"
    assert launcher.call(EXTRACT, printed, str(clips), str(tmp_path / "shares"), ranks=2).exit_codes() == [0, 0]
    assert_same(stored(tmp_path / "shares"), expected)
    assert set(holders(tmp_path / "shares").values()) == {1}
    same = launcher.call(EXTRACT, printed, str(clips), str(tmp_path / "same"), True, ranks=2)  # one command, twice
    assert same.exit_codes() == [0, 0]
    assert_same(stored(tmp_path / "same"), expected)
    (checked,) = verify(tmp_path / "same")
    assert (checked.items, checked.problems) == (CLIPS, [])


def test_shares_are_disjoint_whole_and_keep_streams_of_a_file_together() -> None:
    refs = [MediaRef(stream, path) for path in "abcdefg" for stream in ("video", "audio")]
    parts = [share_of(refs, rank, 3) for rank in range(3)]
    assert sorted(ref.path + ref.stream for part in parts for ref in part) == sorted(r.path + r.stream for r in refs)
    owners = {path: {rank for rank, part in enumerate(parts) for ref in part if ref.path == path} for path in "abcdefg"}
    assert all(len(ranks) == 1 for ranks in owners.values())


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_files_are_listed_and_cost_only_themselves(clips: Path, tmp_path: Path, workers: int) -> None:
    folder = tmp_path / "videos"
    (folder / "deeper").mkdir(parents=True)
    good = [folder / "a.mp4", folder / "deeper" / "b.MP4"]
    for number, path in enumerate(good):
        path.write_bytes((clips / f"{number:02d}.mp4").read_bytes())
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video")
    (folder / "cut.mp4").write_bytes(good[0].read_bytes()[:300])
    (folder / "notes.txt").write_text("passed over")
    Image.new("RGB", (8, 8)).save(folder / "picture.png")
    stream = stream_into(tmp_path / "store")
    report = run(folder, stream, workers=workers)["video"]
    assert (report.stored, report.found, report.absent) == (2, 0, 0)
    assert sorted(Path(path).name for path, _ in report.failed) == ["cut.mp4", "empty.mp4", "text.mp4"]
    listed = stream.cache.collection.folder / "failed.jsonl"
    entries = [json.loads(line) for line in listed.read_text().splitlines()]
    assert {(entry["path"], entry["reason"]) for entry in entries} == set(report.failed)
    again = run(folder, stream_into(tmp_path / "store"), workers=workers)["video"]
    assert (again.stored, again.found, len(again.failed)) == (0, 2, 3)
    assert len(listed.read_text().splitlines()) == 3


def test_changed_weights_rule_or_file_is_a_miss(clips: Path, tmp_path: Path) -> None:
    folder, store = tmp_path / "videos", tmp_path / "store"
    folder.mkdir()
    for number in range(3):
        write_clip(folder / f"{number}.mp4", seed=number)
    assert run(folder, stream_into(store))["video"].stored == 3
    assert run(folder, stream_into(store))["video"].found == 3
    assert run(folder, stream_into(store, seed=1))["video"].stored == 3
    other_rule = VideoPreprocessing(size=28, num_frames=4, sampling="arange")
    assert run(folder, stream_into(store, preprocessing=other_rule))["video"].stored == 3
    assert run(folder, stream_into(store, dtype="bfloat16"))["video"].stored == 3
    write_clip(folder / "1.mp4", seed=7)
    changed = run(folder, stream_into(store))["video"]
    assert (changed.stored, changed.found) == (1, 2)
    direct = tower()(torch.from_numpy(PREPROCESSING.load(str(folder / "1.mp4")))[None])[0]
    found = stream_into(store).cache.find(MediaRef("video", str(folder / "1.mp4")))
    torch.testing.assert_close(found, direct, rtol=0, atol=1e-6)
    assert len(list(collections(store))) == 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_stored_is_what_the_tower_gives_at_any_batch_size(clips: Path, tmp_path: Path, dtype: str) -> None:
    kind = getattr(torch, dtype)
    for batch_size in (1, 5):
        stream = stream_into(tmp_path / str(batch_size), dtype=dtype)
        stream.tower.to(kind)
        run(clips, stream, batch_size=batch_size)
        for path in media_files(clips)[:6]:
            direct = tower()(torch.from_numpy(PREPROCESSING.load(path))[None])[0]
            found = stream.cache.find(MediaRef("video", path))
            assert found is not None and found.dtype == kind
            tolerance = {"float32": 1e-5, "bfloat16": 0.1, "float16": 0.01}[dtype]
            torch.testing.assert_close(found.float(), direct, rtol=0, atol=tolerance)


def test_interrupted_extraction_keeps_what_was_encoded(clips: Path, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    stream = stream_into(tmp_path, shard_seconds=1e9)
    with pytest.raises(KeyboardInterrupt):
        run(clips, stream, batch_size=4, progress=stop)
    assert len(stored(tmp_path)) == 8
    assert run(clips, stream_into(tmp_path))["video"].found == 8


def test_items_of_many_shapes_do_not_pile_up(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = PREPROCESSING.load(media_files(clips)[0]).nbytes
    monkeypatch.setattr("vidtune.features.extract.WAITING_BYTES", 3 * largest)
    given: list[int] = []
    encode = TowerStream.encode

    def counted(self: TowerStream, arrays: Any, *rest: Any) -> list[torch.Tensor]:
        given.append(len(arrays))
        return encode(self, arrays, *rest)

    monkeypatch.setattr(TowerStream, "encode", counted)
    assert run(clips, stream_into(tmp_path), batch_size=100)["video"].stored == CLIPS
    assert max(given) == 4 and sum(given) == CLIPS


def test_grey_levels_are_normalised_before_the_tower(clips: Path, tmp_path: Path) -> None:
    grey = VideoPreprocessing(size=28, num_frames=4, pixels="uint8")
    stream = stream_into(tmp_path, preprocessing=grey)
    run(clips, stream)
    path = media_files(clips)[0]
    values = grey.to_float(torch.from_numpy(grey.load(path)))
    torch.testing.assert_close(stream.cache.find(MediaRef("video", path)), tower()(values[None])[0], rtol=0, atol=1e-5)


def test_streams_read_the_files_of_their_medium(clips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    write_clip(folder / "a.mp4")
    Image.fromarray(np.full((30, 40, 3), 7, np.uint8)).save(folder / "b.jpg")
    video = stream_into(tmp_path / "store")
    image = TowerStream("image", video.tower, ImagePreprocessing(size=28), video.cache)
    refs = refs_of_folder(folder, [video, image])
    assert [(ref.stream, Path(ref.path).name) for ref in refs] == [("video", "a.mp4"), ("image", "b.jpg")]


def test_file_that_changes_while_it_is_read_is_listed_and_not_stored(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    path = write_clip(folder / "a.mp4")
    load = VideoPreprocessing.load

    def change(self: VideoPreprocessing, *arguments: Any) -> np.ndarray:
        found = load(self, *arguments)
        write_clip(path, seed=1)
        return found

    monkeypatch.setattr(VideoPreprocessing, "load", change)
    report = run(folder, stream_into(tmp_path / "store"))["video"]
    assert (report.stored, report.failed) == (0, [(str(path), "changed while it was read")])
    assert not stored(tmp_path / "store")


def test_streams_that_begin_with_the_same_pixels_share_their_decoding(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Counter[str]()
    real = VideoPreprocessing._read_kept

    def counted(self: VideoPreprocessing, path: str, *arguments: Any) -> np.ndarray:
        read[path] += 1
        return real(self, path, *arguments)

    monkeypatch.setattr(VideoPreprocessing, "_read_kept", counted)
    other_rule = VideoPreprocessing(size=28, num_frames=4, sampling="arange")
    streams = [
        stream_into(tmp_path / "store"),
        stream_into(tmp_path / "store", preprocessing=other_rule, name="another rule"),
        stream_into(tmp_path / "store", seed=1, name="another tower"),
    ]
    reports = run(clips, *streams)
    assert [report.stored for report in reports.values()] == [CLIPS] * 3
    assert set(read.values()) == {2}
    alone = stream_into(tmp_path / "alone", seed=1)
    run(clips, alone)
    for path in media_files(clips):
        ref = MediaRef("video", path)
        assert torch.equal(streams[2].cache.find(ref), alone.cache.find(ref))


def test_equal_files_are_encoded_once(clips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    content, status = (clips / "00.mp4").read_bytes(), (clips / "00.mp4").stat()
    for name in ("a", "b", "c"):
        (folder / f"{name}.mp4").write_bytes(content)
        os.utime(folder / f"{name}.mp4", ns=(status.st_atime_ns, status.st_mtime_ns))
    report = run(folder, stream_into(tmp_path / "store"))["video"]
    assert (report.stored, report.found) == (1, 2)


def test_store_that_cannot_be_written_ends_the_extraction(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vidtune.features.collection.write_shard", full)
    with pytest.raises(UserError, match=r"No space left.*run the same command again"):
        run(clips, stream_into(tmp_path, shard_bytes=1000))
    assert not list(tmp_path.rglob("*.partial"))


def test_what_is_left_out_is_not_counted_as_stored(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = MediaRef("video", str(clips / "00.mp4"))
    stream = stream_into(tmp_path)
    real = FeatureCache.add

    def add(self: FeatureCache, key: str, *arguments: Any, **options: Any) -> bool:
        return key != self.key(refused) and real(self, key, *arguments, **options)

    monkeypatch.setattr(FeatureCache, "add", add)
    report = run(clips, stream)["video"]
    assert (report.stored, report.found) == (CLIPS - 1, 0)
    assert [Path(path).name for path, _ in report.failed] == ["00.mp4"]
    assert len(stored(tmp_path)) == CLIPS - 1


def test_a_writer_that_dies_ends_the_extraction(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = iter([True])

    def write(*arguments: object) -> int:
        if next(failing, False):
            raise MemoryError
        return 1

    monkeypatch.setattr(Collection, "write", write)
    with pytest.raises(UserError, match=r"features cannot be stored: MemoryError"):
        run(clips, stream_into(tmp_path, shard_bytes=1000))
