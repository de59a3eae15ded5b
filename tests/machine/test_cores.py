import pytest

from vidtune.machine import cores


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "available_cores", lambda: 16)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_ranks_of_a_machine_share_its_cores() -> None:
    assert [cores.thread_budget(ranks) for ranks in (1, 2, 8, 16, 20)] == [16, 8, 2, 1, 1]


def test_workers_get_cores_of_their_own_where_they_are_given() -> None:
    assert [cores.thread_budget(2, workers) for workers in (0, 3, 8)] == [8, 5, 1]


@pytest.mark.parametrize(("asked", "threads"), [("3", 3), ("4,2", 4), ("", 8), ("0", 8)])
def test_omp_num_threads_wins(monkeypatch: pytest.MonkeyPatch, asked: str, threads: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert cores.thread_budget(2) == threads


def test_media_workers_follow_the_share_of_the_cores_unless_asked_for() -> None:
    assert [cores.media_workers(None, ranks) for ranks in (1, 2, 4, 16)] == [8, 7, 3, 1]
    assert [cores.media_workers(asked, 4) for asked in (0, 5, 20)] == [0, 5, 20]
