import os
import subprocess
import time
from pathlib import Path

import pytest
import torch

from vidtune.machine import cores, devices

WITHIN = cores.available_cores


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "available_cores", lambda: 16)
    for name in ("OMP_NUM_THREADS", "SLURM_PROCID", "SLURM_CPUS_ON_NODE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_ranks_of_a_machine_share_its_cores() -> None:
    assert [cores.thread_budget(ranks) for ranks in (1, 2, 8, 16, 20)] == [16, 8, 2, 1, 1]


def test_a_task_that_srun_binds_to_cores_of_its_own_shares_them_with_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_PROCID": "3", "SLURM_CPUS_ON_NODE": "128"}.items():
        monkeypatch.setenv(name, value)
    assert (cores.thread_budget(8), cores.media_workers(None, 8)) == (16, 8)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "16")  # not bound
    assert (cores.thread_budget(8), cores.media_workers(None, 8)) == (2, 1)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "128")
    monkeypatch.setenv("LOCAL_RANK", "3")  # torchrun inside a task
    assert (cores.thread_budget(8), cores.media_workers(None, 8)) == (2, 1)


def test_workers_get_cores_of_their_own_where_they_are_given() -> None:
    assert [cores.thread_budget(2, workers) for workers in (0, 3, 8)] == [8, 5, 1]


@pytest.mark.parametrize(("asked", "threads"), [("3", 3), ("4,2", 4), ("", 8), ("0", 8)])
def test_omp_num_threads_wins(monkeypatch: pytest.MonkeyPatch, asked: str, threads: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert cores.thread_budget(2) == threads


def test_media_workers_follow_the_share_of_the_cores_unless_asked_for() -> None:
    assert [cores.media_workers(None, ranks) for ranks in (1, 2, 4, 16)] == [8, 7, 3, 1]
    assert [cores.media_workers(asked, 4) for asked in (0, 5, 20)] == [0, 5, 20]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 12),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "5000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "6400000 100000\n"}, 12),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/docker/abc\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            12,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense\n"}, 12),
        ({}, 12),
    ],
)
def test_a_container_may_grant_fewer_cores_than_the_machine_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert WITHIN(tmp_path) == expected


def test_time_in_the_queue_for_a_core_is_told_apart_from_waiting() -> None:
    """Twice as many busy threads of one core as it can run: they wait for it about half of the time."""
    before = cores.queued_seconds()
    if before is None:
        pytest.skip("no /proc/thread-self/schedstat here")
    time.sleep(0.05)
    asleep = cores.queued_seconds() - before
    core = min(os.sched_getaffinity(0))
    allowed, busy = os.sched_getaffinity(0), []
    try:
        os.sched_setaffinity(0, {core})
        busy = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(2)]
        before, end = cores.queued_seconds(), time.perf_counter() + 0.3
        while time.perf_counter() < end:
            pass
        assert cores.queued_seconds() - before > 0.1 > asleep
    finally:
        os.sched_setaffinity(0, allowed)
        for process in busy:
            process.kill()
            process.wait()


def test_torch_takes_no_more_threads_than_a_container_grants(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(devices, "available_cores", lambda: 3)
    try:
        for threads, expected in [(8, 3), (3, 3), (1, 1)]:
            torch.set_num_threads(threads)
            assert devices.pick_device("cpu") == "cpu" and torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
