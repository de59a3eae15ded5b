import errno
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from misbehaving import LEAK, Preprocessing, leave_at_once
from synthetic_clips import write_clip

from vidtune.errors import UnreadMediaError, UserError
from vidtune.machine.shared_memory import SharedArrays
from vidtune.media import pool as pool_module
from vidtune.media import worker
from vidtune.media.pool import LoadJob, MediaPool
from vidtune.media.preprocessing.resize_to_square import VideoPreprocessing

PREPROCESSING = VideoPreprocessing(num_frames=2, size=16)


@pytest.fixture(scope="module")
def pool() -> Iterator[MediaPool]:
    with MediaPool(2, timeout=120) as pool:
        yield pool


def job(behaviour: str, path: str = "clip", seed: int | None = None) -> LoadJob:
    return LoadJob(path, Preprocessing(behaviour), seed)  # type: ignore[arg-type]


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status != "Z"


def test_workers_give_what_the_calling_process_would(pool: MediaPool, tmp_path: Path) -> None:
    paths = [write_clip(tmp_path / f"{number}.mp4", num_frames=number + 3) for number in range(5)]
    jobs = [LoadJob(str(path), PREPROCESSING, seed=number) for number, path in enumerate(paths)]
    with MediaPool(0, timeout=None) as here:
        expected = list(here.load(jobs))
    for _ in range(2):
        results = list(pool.load(jobs))
        assert [result.job.path for result in results] == [str(path) for path in paths]
        for result, reference in zip(results, expected, strict=True):
            assert result.error is None and result.seconds > 0
            assert np.array_equal(result.array, reference.array)


def test_a_hanging_file_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "good.mp4", num_frames=3)
    jobs = [LoadJob(str(clip), PREPROCESSING)] * 15
    jobs[4] = job("hang", "hangs.mp4")
    jobs[9] = LoadJob(str(tmp_path / "missing.mp4"), PREPROCESSING)
    with MediaPool(2, timeout=2.0) as pool:
        results = list(pool.load(jobs))
    assert [result.job.path for result in results] == [one.path for one in jobs]
    errors = {number: result.error for number, result in enumerate(results) if result.error}
    assert {number: str(error) for number, error in errors.items()} == {
        4: "hangs.mp4: was not read within 2 s; gave up on it, in each of 2 tries",
        9: f"{tmp_path / 'missing.mp4'}: file does not exist",
    }
    assert isinstance(errors[4], UnreadMediaError) and not isinstance(errors[9], UnreadMediaError)
    assert results[4].array is None and 4.0 <= results[4].seconds < 60
    assert all(result.array is not None for number, result in enumerate(results) if number not in errors)


def test_results_do_not_share_memory(pool: MediaPool) -> None:
    results = list(pool.load(job("report", seed=number) for number in range(10)))
    assert [result.array[1] for result in results if result.array is not None] == list(range(10))


def test_endless_jobs_are_drawn_only_a_little_ahead(pool: MediaPool) -> None:
    drawn = itertools.count()
    results = pool.load(job("report", seed=next(drawn)) for _ in itertools.count())
    for expected in range(20):
        result = next(results)
        assert result.job.seed == expected
    results.close()
    assert next(drawn) <= 20 + pool.prefetch
    assert len(list(pool.load([job("report")]))) == 1


def test_metadata_can_be_read_by_workers(pool: MediaPool, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", num_frames=3)
    good, bad = pool.load([LoadJob(str(path), None), LoadJob(str(tmp_path / "missing.mp4"), None)])
    assert good.info is not None and good.info.num_frames == 3 and good.array is None
    assert str(bad.error) == f"{tmp_path / 'missing.mp4'}: file does not exist"


def test_a_crash_costs_only_the_file_that_caused_it(pool: MediaPool) -> None:
    before, crashed, after = pool.load([job("report"), job("crash", "evil.mp4"), job("report")])
    cause = r"the process reading it died after \d+\.\d s \(SIGSEGV, a crash of the decoder\)"
    assert re.fullmatch(rf"evil\.mp4: {cause}, in each of 2 tries", str(crashed.error))
    assert not isinstance(crashed.error, UnreadMediaError)
    assert 0 < crashed.seconds < 60
    assert before.error is None and after.error is None


def test_what_the_machine_did_to_a_worker_is_not_the_fault_of_its_file(tmp_path: Path) -> None:
    """A second try, in a fresh worker, says otherwise; a file whose workers are killed every time is left open."""
    ways = {"killed": 2, "crash": 1, "stopped": 1, "machine": 1, "always": 9}
    jobs = [
        LoadJob(str(tmp_path / way), Preprocessing(way.replace("always", "killed"), times))  # type: ignore[arg-type]
        for way, times in ways.items()
    ]
    with MediaPool(1, timeout=2.0) as pool:
        *healed, always = pool.load(jobs)
        (fresh,) = pool.load([job("report")])
    assert [result.error for result in healed] == [None] * 4
    assert [int(result.array[1]) for result in healed if result.array is not None] == [3, 2, 2, 2]
    assert fresh.array is not None
    assert isinstance(always.error, UnreadMediaError)
    assert "(SIGKILL, likely out of memory), in each of 3 tries" in str(always.error)


def test_a_worker_killed_while_idle_is_replaced(pool: MediaPool) -> None:
    (result,) = pool.load([job("report")])
    assert result.array is not None
    os.kill(int(result.array[0]), signal.SIGKILL)
    assert all(result.error is None for result in pool.load(job("report") for _ in range(4)))


def test_a_worker_that_leaks_is_replaced_before_it_outgrows_its_share() -> None:
    with MediaPool(1, timeout=120) as pool:
        (alone,) = pool.load([job("report")])
        assert alone.array is not None
        fresh = resident(int(alone.array[0]))
    # Room for three leaks on top of what a new worker holds: the fourth is the worker's last job.
    with MediaPool(1, timeout=120, max_resident=fresh + 4 * LEAK - LEAK // 2) as pool:
        results = list(pool.load(job("leak") for _ in range(12)))
    pids = [int(result.array[0]) for result in results if result.array is not None]
    assert len(pids) == 12
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [4, 4, 4]


def test_a_worker_is_not_replaced_for_one_large_file_it_has_let_go_of() -> None:
    with MediaPool(1, timeout=120) as pool:
        (alone,) = pool.load([job("report")])
        assert alone.array is not None
        pool.max_resident = resident(int(alone.array[0])) + LEAK // 2
        results = list(pool.load([job("swell"), job("report"), job("report")]))
    assert {int(result.array[0]) for result in results if result.array is not None} == {int(alone.array[0])}


def test_jobs_are_drawn_ahead_only_as_far_as_their_arrays_fit_into_memory() -> None:
    size = 4 * 2**20
    drawn: list[int] = []

    def jobs() -> Iterator[LoadJob]:
        for seed in range(100):
            drawn.append(seed)
            yield job("large", seed=seed)

    with MediaPool(2, timeout=120, prefetch=50, max_waiting=5 * size) as pool:
        results = pool.load(jobs())
        ahead = [len(drawn) - number for number, _ in enumerate(itertools.islice(results, 30), 1)]
        results.close()
    assert ahead[0] == 1 and max(ahead) == ahead[10] == 4  # and the one just taken


def test_grey_levels_travel_as_bytes(pool: MediaPool) -> None:
    kinds = ["grey", "report", "large", "grey", "report", "grey", "large"]
    results = list(pool.load(job(kind, seed=number) for number, kind in enumerate(kinds)))
    for number, (kind, result) in enumerate(zip(kinds, results, strict=True)):
        assert result.array is not None
        assert result.array.dtype == (np.uint8 if kind == "grey" else np.float32)
        assert result.array.shape == {"grey": (3, 5), "report": (2,), "large": (2**20,)}[kind]
        assert (result.array[1] == number).all()


def test_a_mistake_in_the_program_is_not_taken_for_a_bad_file() -> None:
    with MediaPool(1, timeout=120) as pool, pytest.raises(RuntimeError, match="KeyError: 'a mistake in the program'"):
        list(pool.load([job("bug")]))


def test_workers_that_cannot_start_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "serve", leave_at_once)
    with MediaPool(1, timeout=120) as pool, pytest.raises(UserError, match=r"cannot start \(exit code 7\)"):
        list(pool.load([job("report")]))


def test_a_closed_pool_says_so() -> None:
    pool = MediaPool(1, timeout=120)
    pool.close()
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        list(pool.load([job("report")]))


def test_closing_ends_workers_that_hang() -> None:
    started = time.monotonic()
    with MediaPool(1, timeout=None) as pool:
        (result,) = pool.load([job("report")])
        pool._submit(job("hang"))
    assert result.array is not None
    assert not is_running(int(result.array[0]))
    assert time.monotonic() - started < 60


def test_too_little_shared_memory_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    report = worker._work(worker.job_message(job("report")), SharedArrays())
    assert report.crash is not None
    assert "MB of shared memory for clip (No space left on device); use fewer workers" in report.crash


def test_the_calling_process_reads_by_itself_without_workers(tmp_path: Path) -> None:
    with MediaPool(0, timeout=None) as pool:
        (missing,) = pool.load([LoadJob(str(tmp_path / "missing.mp4"), PREPROCESSING)])
    assert str(missing.error) == f"{tmp_path / 'missing.mp4'}: file does not exist"
    assert missing.array is None


UNGUARDED_SCRIPT = """
import itertools, sys
from vidtune.media.pool import LoadJob, MediaPool
import torch
from misbehaving import Preprocessing

print("main", flush=True)
pool = MediaPool(2, timeout=None)
for result in pool.load(LoadJob("clip", Preprocessing("report")) for _ in range(30)):
    print("worker", int(result.array[0]), flush=True)
print("waiting", flush=True)
list(pool.load([LoadJob(sys.argv[1], None), LoadJob("clip", Preprocessing("hang"))]))
"""


def test_workers_do_not_outlive_a_killed_parent_nor_run_its_script(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hangs.mp4")
    (tmp_path / "script.py").write_text(UNGUARDED_SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "hangs.mp4")]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    lines = list(itertools.takewhile(lambda line: line != "waiting\n", process.stdout))
    workers = {int(line.split()[1]) for line in lines if line.startswith("worker")}
    assert lines.count("main\n") == 1
    assert workers and all(is_running(pid) for pid in workers)
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 60
    while any(is_running(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if is_running(pid)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_workers_start_from_a_process_that_uses_cuda() -> None:
    torch.zeros(1, device="cuda")
    with MediaPool(2, timeout=120) as pool:
        assert all(result.error is None for result in pool.load(job("report") for _ in range(8)))


@pytest.mark.parametrize("workers", [0, 1])
def test_second_array_comes_from_the_same_decoded_pixels(tmp_path: Path, workers: int) -> None:
    path = tmp_path / "clip.mp4"
    write_clip(path)
    first, second = VideoPreprocessing(num_frames=3, size=16), VideoPreprocessing(num_frames=3, size=8, pixels="uint8")
    job = LoadJob(str(path), first, seed=1, second=second)
    with MediaPool(workers, None) as pool:
        for result in pool.load([job, LoadJob(str(path), first), job]):
            assert result.array is not None
            assert np.array_equal(result.array, first.load(str(path), 1))
            if result.job is job:
                assert result.second is not None
                assert np.array_equal(result.second, second.load(str(path), 1))
                assert result.nbytes == result.array.nbytes + result.second.nbytes
            else:
                assert result.second is None
