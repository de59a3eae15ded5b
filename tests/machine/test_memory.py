import gc
from pathlib import Path

import numpy as np

from vidtune.machine import memory
from vidtune.machine.memory import GIB, memory_limit, resident_bytes, uncollected, waiting_memory, worker_memory


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_container_may_allow_less_than_the_machine_has(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/slurm/job_7/step_0\n")
    write(tmp_path / "sys/fs/cgroup/slurm/job_7/step_0/memory.max", "max\n")
    assert memory_limit(tmp_path) == memory_limit(tmp_path / "nowhere")
    write(tmp_path / "sys/fs/cgroup/slurm/job_7/memory.max", f"{2**26}\n")
    assert memory_limit(tmp_path) == 2**26


def test_limits_of_the_first_version_of_control_groups_count(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "5:cpu,cpuacct:/\n4:memory:/docker/abc\n0::/\n")
    # Inside the container its own group is mounted at the top.
    write(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{2**27}\n")
    assert memory_limit(tmp_path) == 2**27


def test_a_limit_that_only_slows_down_counts_too(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/\n")
    write(tmp_path / "sys/fs/cgroup/memory.max", f"{2**27}\n")
    write(tmp_path / "sys/fs/cgroup/memory.high", f"{2**26}\n")
    assert memory_limit(tmp_path) == 2**26


def test_version_2_beside_version_1_lies_in_a_folder_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "4:cpu,cpuacct:/job\n0::/job\n")
    write(tmp_path / "sys/fs/cgroup/unified/job/memory.max", f"{2**25}\n")
    assert memory_limit(tmp_path) == 2**25


def test_workers_together_take_half_of_the_memory(monkeypatch) -> None:
    monkeypatch.setattr(memory, "memory_limit", lambda: 32 * GIB)
    assert [worker_memory(workers) for workers in (0, 1, 8, 16, 64)] == [4 * GIB, 4 * GIB, 2 * GIB, GIB, GIB // 2]
    assert [waiting_memory(processes) for processes in (1, 8)] == [GIB // 2, GIB // 4]


def test_resident_memory_falls_when_memory_is_given_back() -> None:
    before = resident_bytes()
    large = np.ones(2**27, np.uint8)
    during = resident_bytes()
    del large
    assert during - before > 2**26
    assert resident_bytes() < during - 2**26


def test_what_is_loaded_is_not_searched_for_cycles_and_is_old_afterwards():
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            pass
        assert not gc.isenabled()  # the inner one leaves it to the outer one
        loaded = [[] for _ in range(5000)]
    assert gc.isenabled()
    young = {id(one) for generation in (0, 1) for one in gc.get_objects(generation)}
    assert not young & set(map(id, loaded))
