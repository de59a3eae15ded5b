"""Who a process is, from the variables of the launchers; contradictions are named before anything hangs."""

import pytest
import torch

from vidtune.errors import UserError
from vidtune.machine.ranks.place import ProcessPlace, compute_device, first_host
from vidtune.training.ranks.group import Ranks

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}
SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "1234567",
    "SLURM_JOB_NODELIST": "gpu[007-008,12]",
}


def test_without_variables_there_is_one_process_and_no_group() -> None:
    assert ProcessPlace.from_environment({"PATH": "/bin"}) == ProcessPlace()
    ranks = Ranks(ProcessPlace(), torch.device("cpu"))
    assert (ranks.is_main, ranks.gather("x"), ranks.main_first(lambda: 3)) == (True, ["x"], 3)
    assert ranks.table(torch.tensor([1.0, 2.0])).tolist() == [[1.0, 2.0]]
    assert not torch.distributed.is_initialized()


def test_variables_of_torchrun() -> None:
    assert ProcessPlace.from_environment(TORCHRUN) == ProcessPlace(5, 8, 1, 4, "node1", 29500)


def test_torchrun_started_by_slurm_is_torchrun() -> None:
    assert ProcessPlace.from_environment({**SLURM, "SLURM_NTASKS": "2", "SLURM_PROCID": "1", **TORCHRUN}).world == 8


def test_variables_of_slurm() -> None:
    place = ProcessPlace.from_environment(SLURM)
    assert (place.rank, place.world, place.local_rank, place.host) == (5, 8, 1, "gpu007")
    assert place.port == ProcessPlace.from_environment({**SLURM, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}).port
    assert ProcessPlace.from_environment({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}).local_world == 4
    assert ProcessPlace.from_environment({**SLURM, "MASTER_ADDR": "here", "MASTER_PORT": "1234"}).host == "here"
    # A step may have fewer tasks than its job.
    assert (
        ProcessPlace.from_environment({**SLURM, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "1"})
        == ProcessPlace()
    )


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("node[03-05,7],login1", "node03"), ("a1,a2", "a1"), ("gpu-[1-3]-ib", "gpu-1-ib"), ("single", "single"), ("", "")],
)
def test_first_host_of_a_slurm_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RANK": "8"}, r"RANK=8 does not go with WORLD_SIZE=8"),
        ({"LOCAL_RANK": "4"}, r"LOCAL_RANK=4 does not go with LOCAL_WORLD_SIZE=4"),
        ({"LOCAL_WORLD_SIZE": "16"}, r"LOCAL_WORLD_SIZE=16 is more than WORLD_SIZE=8"),
        ({"WORLD_SIZE": None}, r"RANK set, but WORLD_SIZE is not"),
        ({"RANK": None}, r"WORLD_SIZE set, but RANK is not"),
        ({"MASTER_ADDR": None}, r"MASTER_ADDR, where rank 0 listens, is not set"),
        ({"WORLD_SIZE": "two"}, r"WORLD_SIZE='two' is no number"),
    ],
)
def test_contradicting_variables_are_named(changes: dict[str, str | None], message: str) -> None:
    environment = {key: value for key, value in {**TORCHRUN, **changes}.items() if value is not None}
    with pytest.raises(UserError, match=message):
        ProcessPlace.from_environment(environment)


def test_contradicting_variables_of_slurm_are_named() -> None:
    with pytest.raises(UserError, match=r"SLURM_PROCID=5 does not go with SLURM_STEP_NUM_TASKS=2"):
        ProcessPlace.from_environment({**SLURM, "SLURM_STEP_NUM_TASKS": "2"})
    with pytest.raises(UserError, match=r"neither MASTER_ADDR nor SLURM_JOB_NODELIST"):
        ProcessPlace.from_environment({**SLURM, "SLURM_JOB_NODELIST": ""})


@pytest.mark.parametrize(("count", "visible", "device"), [(4, None, "cuda:1"), (1, "3", "cuda:0"), (1, None, None)])
def test_each_process_has_its_own_gpu(
    monkeypatch: pytest.MonkeyPatch, count: int, visible: str | None, device: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    place = ProcessPlace.from_environment(TORCHRUN)
    if device is None:
        with pytest.raises(UserError, match=r"process 2 of this machine finds 1 GPU"):
            compute_device(place, None)
    else:
        assert compute_device(place, None) == torch.device(device)
        assert compute_device(place, "cpu") == torch.device("cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "xpu"])
def test_a_device_that_is_not_there_is_refused_in_one_line(device: str) -> None:
    with pytest.raises(UserError, match=f"device '{device}': ") as refused:
        compute_device(ProcessPlace(), device)
    assert "\n" not in str(refused.value)
