"""Worker processes and the server that they are forked from."""

import atexit
import errno
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from worker_bodies import die, die_once, double, echo, hang, modules_of, write_to

from vidtune.errors import UserError
from vidtune.machine import workers
from vidtune.machine.parallel_work import work_in_processes
from vidtune.machine.workers import Worker, prepare


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in pids if is_running(pid)]


def test_a_worker_gets_its_arguments_and_answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "later"))  # after the server has started
    worker = Worker(echo, 1, "two", [3])
    values, pid, folder, path, _ = worker.connection.recv()
    assert values == (1, "two", [3]) and pid == worker.pid != os.getpid()
    assert Path(folder) == tmp_path and path == sys.path
    worker.connection.send("hello")
    assert worker.connection.recv() == "hello"
    worker.end()
    worker.end()
    assert worker.exit_code() == -signal.SIGKILL and not is_running(worker.pid)


def close(server: workers._Server) -> None:
    atexit.unregister(server.close)
    server.close()


def test_a_prepared_server_has_imported_what_a_worker_needs(monkeypatch):
    monkeypatch.setattr(workers, "_server", None)
    prepare("not.a.module", "this")
    first = workers._server
    worker = Worker(modules_of)
    assert workers._server is first
    assert "this" in worker.connection.recv()
    worker.end()
    close(first)


def test_a_server_without_a_worker_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(workers, "_server", None)
    prepare("time")
    server = workers._server
    close(server)
    assert server._process.returncode == -signal.SIGKILL


def test_a_worker_shares_open_files_and_ends_by_itself(tmp_path):
    with (tmp_path / "shared").open("wb") as file:
        worker = Worker(write_to, "from the worker", descriptors=[file.fileno()])
        with pytest.raises(EOFError):
            worker.connection.recv()
        assert worker.exit_code() == 0
    worker.end()
    assert (tmp_path / "shared").read_text() == "from the worker"


def test_a_worker_that_hangs_is_killed():
    worker = Worker(hang)
    assert worker.connection.recv() == worker.pid
    worker.end()
    assert not is_running(worker.pid)


def test_a_killed_server_is_replaced():
    first = Worker(hang)
    first.connection.recv()
    assert workers._server is not None
    server = workers._server._process.pid
    os.kill(server, signal.SIGKILL)
    second = Worker(echo)
    assert second.connection.recv()[1] == second.pid
    assert workers._server._process.pid != server
    first.end()
    second.end()
    wait_until_gone([first.pid, second.pid])


def test_an_interrupted_request_does_not_mix_up_the_answers(monkeypatch):
    worker = Worker(echo)
    worker.connection.recv()

    def interrupted(link):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(workers, "receive_message", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Worker(hang)
    worker.end()
    wait_until_gone([worker.pid])
    again = Worker(echo, "again")
    values, pid, *_ = again.connection.recv()
    assert values == ("again",) and pid == again.pid
    again.end()


SCRIPT = """
import sys
from worker_bodies import echo, hang
from vidtune.machine.workers import Worker, prepare

MARK = "main ran"
print("main", flush=True)
workers = [Worker(echo), Worker(hang)]
print(workers[0].connection.recv()[4], workers[0].pid, workers[1].connection.recv(), flush=True)
if sys.argv[1] == "wait":
    input()
"""


@pytest.mark.parametrize("end", ["kill", "kill server first", "return"])
def test_workers_and_server_end_with_the_program_and_do_not_run_its_script(tmp_path, end):
    (tmp_path / "script.py").write_text(SCRIPT)
    program = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), "go on" if end == "return" else "wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert program.stdout.readline() == "main\n"
    mark, *pids = program.stdout.readline().split()
    assert mark == "None"
    if end != "return":
        children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
        assert len(children) == 1  # the server
        pids += children
        if end == "kill server first":
            os.kill(int(children[0]), signal.SIGKILL)
            wait_until_gone([int(children[0])])
        program.kill()
    rest, _ = program.communicate(timeout=60)
    assert rest == "" and program.returncode == (0 if end == "return" else -signal.SIGKILL)
    wait_until_gone([int(pid) for pid in pids])


def test_pieces_are_done_by_several_processes(tmp_path):
    assert sorted(work_in_processes(partial(double, str(tmp_path)), range(20), 2)) == list(range(20))
    results = [(tmp_path / str(number)).read_text().split() for number in range(20)]
    assert [int(result) for result, _ in results] == [2 * number for number in range(20)]
    assert len({pid for _, pid in results}) == 2


def test_a_mistake_and_a_dead_process_are_told_apart(tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)a worker process failed:.*ValueError: piece -1"):
        list(work_in_processes(partial(double, str(tmp_path)), [-1], 2))
    with pytest.raises(UserError, match="a worker process died"):
        list(work_in_processes(die, [0, 1], 2))


def test_ctrl_c_does_not_reach_a_process_that_starts(monkeypatch):
    """It would end with a traceback of its own."""
    held = []

    def start(*_, **__):
        held.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        raise OSError(errno.EAGAIN, "no process")

    monkeypatch.setattr(workers.subprocess, "Popen", start)
    with pytest.raises(UserError, match=r"cannot start \(no process\)"):
        workers._Server()
    assert {signal.SIGINT, signal.SIGTERM} <= held[0]
    assert not {signal.SIGINT, signal.SIGTERM} & signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_worker_that_was_killed_costs_no_piece(tmp_path):
    work = partial(die_once, str(tmp_path))
    assert sorted(work_in_processes(work, range(5), 2)) == list(range(5))
    assert {path.name for path in tmp_path.iterdir()} == {str(number) for number in range(5)}
