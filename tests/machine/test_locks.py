"""Locks between processes."""

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from vidtune.errors import UserError
from vidtune.machine.locks import LockUnavailableError, is_locked, locked

HOLD = """
import sys, pathlib
from vidtune.machine.locks import locked
with locked(pathlib.Path(sys.argv[1]), refusal="taken"):
    print("held", flush=True)
    input()
"""


@pytest.fixture
def held_elsewhere(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    yield holder
    holder.kill()
    holder.communicate()


def test_a_held_lock_names_its_holder(tmp_path, held_elsewhere):
    with pytest.raises(UserError) as refused, locked(tmp_path, refusal="another process trains here"):
        pass
    holder = f"process {held_elsewhere.pid} on {socket.gethostname()}"
    assert str(refused.value) == f"{tmp_path}: another process trains here ({holder})"


def test_looking_at_a_lock_writes_nothing(tmp_path, held_elsewhere):
    before = (tmp_path / ".lock").read_bytes()
    assert is_locked(tmp_path)
    held_elsewhere.kill()
    held_elsewhere.wait()
    assert not is_locked(tmp_path)
    assert (tmp_path / ".lock").read_bytes() == before
    assert not is_locked(tmp_path / "new") and [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_killed_holder_gives_its_lock_back(tmp_path, held_elsewhere):
    os.kill(held_elsewhere.pid, signal.SIGKILL)
    held_elsewhere.wait()
    with locked(tmp_path, refusal="taken"):
        pass


def test_a_waiting_process_goes_on_when_the_lock_is_free(tmp_path, held_elsewhere):
    order = []
    threading.Timer(0.2, lambda: (order.append("released"), held_elsewhere.kill())).start()
    with locked(tmp_path):
        order.append("taken")
    assert order == ["released", "taken"]


def test_threads_exclude_each_other(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(20):
            with locked(tmp_path / "file"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 80 and max(most) == 1


def test_a_place_that_cannot_be_locked_is_told_apart(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(LockUnavailableError, match="cannot be locked"), locked(tmp_path, refusal="taken"):
        pass
