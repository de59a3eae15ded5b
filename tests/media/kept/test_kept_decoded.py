"""Decoded media that are kept on disk: found by content and settings, never wrong, never more than allowed."""

import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from made_up_preprocessing import TimedRows
from qa_sets import write_video

from vidtune.errors import UserError
from vidtune.media import pool as pool_module
from vidtune.media import worker
from vidtune.media.clip_times import Part
from vidtune.media.kept import decoded
from vidtune.media.kept.decoded import Arrays, opened
from vidtune.media.kept.place import DecodedFolder
from vidtune.media.pool import LoadJob, MediaPool
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing, VideoPreprocessing

CLIP = VideoPreprocessing(size=28, num_frames=3)


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("video") / "red.mp4"
    write_video(path, (200, 20, 20))
    return str(path)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> DecodedFolder:
    monkeypatch.setattr(decoded, "LEAST_SECONDS", -1.0)  # tiny clips are decoded at once
    monkeypatch.setattr(decoded, "WORTH", 0.0)
    return DecodedFolder(str(tmp_path / "decoded"), 10**6)


def load(folder: DecodedFolder | None, job: LoadJob, workers: int = 0):
    with MediaPool(workers, None, decoded=folder) as pool:
        [result] = pool.load([job])
    assert result.error is None
    return result


def entries(folder: DecodedFolder) -> list[Path]:
    return sorted(Path(folder.folder).glob("*"))


def test_what_was_decoded_is_found_and_the_same(folder, video, tmp_path):
    plain = load(None, LoadJob(video, CLIP)).array
    first, second = load(folder, LoadJob(video, CLIP)), load(folder, LoadJob(video, CLIP))
    assert (first.found, second.found) == (False, True)
    for result in (first, second):
        assert result.array.dtype == plain.dtype and np.array_equal(result.array, plain)
        result.array[:] = 0  # no two results share memory
    copy = shutil.copy2(video, tmp_path / "elsewhere.mp4")
    assert load(folder, LoadJob(str(copy), CLIP)).found
    assert len(entries(folder)) == 1


def test_a_worker_process_finds_it_too(folder, video):
    load(folder, LoadJob(video, CLIP))
    result = load(folder, LoadJob(video, CLIP), workers=1)
    assert result.found and np.array_equal(result.array, load(None, LoadJob(video, CLIP)).array)


def test_no_worker_starts_for_what_the_calling_process_finds(folder, video, tmp_path, monkeypatch):
    plain, other = load(folder, LoadJob(video, CLIP)).array, str(shutil.copy(video, tmp_path / "other.mp4"))
    started: list[object] = []
    with monkeypatch.context() as changed:
        changed.setattr(pool_module, "_Worker", started.append)
        with MediaPool(1, 60.0, decoded=folder, find_here=True) as pool:
            found = list(pool.load([LoadJob(video, CLIP)] * 2))
    assert started == []
    with MediaPool(1, 60.0, decoded=folder, find_here=True) as pool:
        last = list(pool.load([LoadJob(video, CLIP), LoadJob(other, CLIP), LoadJob(video, None), LoadJob(video, CLIP)]))
        assert pool._crew
    assert [one.found for one in [*found, *last]] == [True, True, True, False, False, True]
    assert all(np.array_equal(one.array, plain) for one in [*found, last[0], last[1], last[3]])
    assert last[2].info is not None
    found[0].array[:] = 0  # no two results share memory
    assert np.array_equal(found[1].array, plain)


def test_what_the_calling_process_finds_damaged_is_said_and_a_worker_makes_it_anew(folder, video):
    plain = load(folder, LoadJob(video, CLIP)).array
    [entry] = entries(folder)
    entry.write_bytes(entry.read_bytes()[:-1])
    with (
        MediaPool(1, 60.0, decoded=folder, find_here=True) as pool,
        pytest.warns(UserWarning, match="its checksum is another one"),
    ):
        [result] = pool.load([LoadJob(video, CLIP)])
    assert not result.found and np.array_equal(result.array, plain)


def test_a_search_that_never_ends_is_left_to_the_workers(folder, video, tmp_path, monkeypatch):
    other, going_on = str(shutil.copy(video, tmp_path / "other.mp4")), threading.Event()
    load(folder, LoadJob(video, CLIP))

    def stuck(job, decoded):
        if job.path == other:
            going_on.wait()
        return worker.find(job, decoded)

    monkeypatch.setattr(pool_module, "find", stuck)
    try:
        with MediaPool(1, 2.0, decoded=folder, find_here=True) as pool:
            results = list(pool.load([LoadJob(video, CLIP), LoadJob(other, CLIP), LoadJob(video, CLIP)]))
            assert next(pool.load([LoadJob(video, CLIP)])).found and pool._crew
    finally:
        going_on.set()
    assert [(one.error, one.found) for one in results] == [(None, True), (None, False), (None, True)]


def test_other_settings_parts_and_contents_are_other_entries(folder, video, tmp_path):
    own = tmp_path / "own.mp4"
    shutil.copy(video, own)
    second = VideoPreprocessing(size=14, num_frames=3)
    jobs = [
        LoadJob(video, CLIP),
        LoadJob(video, VideoPreprocessing(size=28, num_frames=2)),
        LoadJob(video, VideoPreprocessing(size=28, num_frames=3, sampling="middles")),
        LoadJob(video, VideoPreprocessing(size=28, num_frames=3, pixels="uint8")),
        LoadJob(video, CLIP, part=Part(0.5, None)),
        LoadJob(video, CLIP, second=second),
        LoadJob(str(own), CLIP),
    ]
    assert not any(load(folder, job).found for job in jobs)
    found = [load(folder, job) for job in jobs]
    assert all(result.found for result in found)
    assert np.array_equal(found[5].second, load(None, jobs[5]).second)
    write_video(own, (20, 20, 200))
    changed = load(folder, jobs[6])
    assert not changed.found and np.array_equal(changed.array, load(None, jobs[6]).array)


@pytest.mark.parametrize("damage", ["cut", "flipped", "other byte order", "replaced", "empty"])
def test_a_damaged_entry_is_said_and_made_anew(folder, video, damage):
    plain = load(folder, LoadJob(video, CLIP)).array
    [entry] = entries(folder)
    content = bytearray(entry.read_bytes())
    content[-5] ^= 1
    other = entry.read_bytes().replace(b'"<f4"', b'">f4"')  # one bit
    damaged = {"cut": content[:-100], "flipped": content, "other byte order": other, "replaced": b"none", "empty": b""}
    entry.write_bytes(damaged[damage])
    with pytest.warns(UserWarning, match=rf"{entry}: damaged \(.*\); {video} is decoded again"):
        again = load(folder, LoadJob(video, CLIP))
    assert not again.found and np.array_equal(again.array, plain)
    assert load(folder, LoadJob(video, CLIP)).found


def test_nothing_is_kept_that_may_differ_next_time_or_is_kept_elsewhere(folder, video, tmp_path):
    rows = tmp_path / "rows.txt"
    rows.write_text("1 2 3 " * 4)
    flipped = VideoPreprocessing(size=28, num_frames=3, flip_probability=0.5)
    for job in (
        LoadJob(video, flipped, seed=3),
        LoadJob(video, CLIP.model_copy(update={"blind": True})),
        LoadJob(video, CLIP, keep=False),
        LoadJob(video, None),
        LoadJob(str(rows), TimedRows()),  # not of this package: its code may change
    ):
        load(folder, job)
    assert not entries(folder)


def test_what_is_read_as_fast_as_it_is_kept_is_not_kept(tmp_path, video):
    folder = DecodedFolder(str(tmp_path / "decoded"), 10**6)
    kept = opened(folder)
    kept.keep("cheap", Arrays([np.zeros(10**4, np.float32)], None), seconds=0.005)
    assert not entries(folder)
    kept.keep("dear", Arrays([np.zeros(10**4, np.float32)], None), seconds=0.5)
    assert len(entries(folder)) == 1


def test_the_folder_never_grows_beyond_its_limit_and_the_unused_make_room(folder, monkeypatch):
    kept = opened(folder)
    one = Arrays([np.zeros(45_000, np.float32)], None)  # 180 kB of 1 MB
    for number in range(8):
        kept.keep(str(number), one, seconds=1.0)
    assert [entry.name for entry in entries(folder)] == [f"{number}.decoded" for number in range(5)]
    for number in (1, 3):
        past = time.time() - 2 * decoded.UNUSED_SECONDS
        os.utime(entries(folder)[number], (past, past))
    assert kept.find("3", "its video") is not None  # used again
    kept.keep("new", one, seconds=1.0)
    assert len(entries(folder)) == 5  # a full folder is not looked through for every file
    monkeypatch.setattr(kept, "_look_again", 0.0)
    kept.keep("new", one, seconds=1.0)
    assert [entry.stem for entry in entries(folder)] == ["0", "2", "3", "4", "new"]
    kept.keep("huge", Arrays([np.zeros(10**6, np.float32)], None), seconds=9.0)
    assert len(entries(folder)) == 5 and kept.said() is None


def test_a_folder_that_cannot_be_written_is_said_and_the_work_goes_on(tmp_path, video, monkeypatch):
    monkeypatch.setattr(decoded, "LEAST_SECONDS", -1.0)
    monkeypatch.setattr(decoded, "WORTH", 0.0)
    (tmp_path / "file").touch()
    folder = DecodedFolder(str(tmp_path / "file" / "decoded"), 10**6)
    with pytest.warns(UserWarning, match="decoded media are not kept: Not a directory"):
        assert load(folder, LoadJob(video, CLIP)).array is not None
    assert load(folder, LoadJob(video, CLIP)).note is None


def test_where_they_are_kept_is_told_by_the_environment(tmp_path):
    assert DecodedFolder.from_environment({"VIDTUNE_DECODED": "off"}) is None
    assert DecodedFolder.from_environment({"HOME": "/home/me"}) == DecodedFolder(
        "/home/me/.cache/vidtune/decoded", 10**10
    )
    named = {"VIDTUNE_DECODED": "/big/disk", "VIDTUNE_DECODED_GB": "0.5"}
    assert DecodedFolder.from_environment(named) == DecodedFolder("/big/disk", 5 * 10**8)
    for size in ("much", "inf", "nan", "-1"):
        with pytest.raises(UserError, match=f"VIDTUNE_DECODED_GB='{size}' is no number of GB"):
            DecodedFolder.from_environment({"VIDTUNE_DECODED_GB": size})


def test_an_unreadable_file_is_an_error_as_ever(folder, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with MediaPool(0, None, decoded=folder) as pool:
        [result] = pool.load([LoadJob(str(tmp_path / "broken.png"), ImagePreprocessing(size=28))])
    assert result.error is not None
