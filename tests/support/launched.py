"""Training runs in processes of their own, of one rank or several, and other functions, started by ``launcher.py``."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from vidtune.recipe.files import dump_recipe
from vidtune.recipe.types import Recipe

HANGS_AFTER = 100.0


class Launcher:
    """The process that forks runs."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self._left: Run | None = None  # begun, and its end not waited for

    def start(self, recipe: Recipe, out: Path, ranks: int = 1, **order: Any) -> "Run":
        """Begin a run; ``order`` as ``launcher.py`` describes it."""
        file = out.with_suffix(".yaml")
        file.write_text(dump_recipe(recipe))
        return self._begin(out, {"recipe": str(file), "ranks": ranks, **order})

    def call(self, function: str, out: Path, *arguments: Any, ranks: int = 1) -> "Run":
        """Begin ``module:function`` in a process, or in several ranks; its result is the exit code, and ``out`` where
        its output goes."""
        return self._begin(out, {"call": function, "ranks": ranks, "arguments": arguments})

    def _begin(self, out: Path, order: dict[str, Any]) -> "Run":
        self.end()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"out": str(out), **order}).encode() + b"\n")
        processes = self.answer(10 * HANGS_AFTER)  # the launcher may still import the libraries, on a busy machine
        assert processes is not None
        self._left = Run(self, out, processes)
        return self._left

    def run(self, recipe: Recipe, out: Path, ranks: int = 1, **order: Any) -> list[int]:
        """A whole run; its exit codes."""
        return self.start(recipe, out, ranks, **order).exit_codes()

    def end(self) -> None:
        """Kill what a test that failed has left: the launcher waits for it, and so would every test that follows."""
        if self._left is not None:
            self._left.kill()

    def ended(self, seconds: float = HANGS_AFTER) -> list[int] | None:
        """The exit codes of the run; None when it does not end."""
        codes = self.answer(seconds)
        if codes is not None:
            self._left = None
        return codes

    def answer(self, seconds: float) -> list[int] | None:
        """The next line of the launcher; None when it does not come."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        return json.loads(self._process.stdout.readline()) if ready else None


class Run:
    """A run that goes on, or has ended."""

    def __init__(self, launcher: Launcher, out: Path, processes: list[int]) -> None:
        self._launcher, self.out, self.processes = launcher, out, processes

    def exit_codes(self) -> list[int]:
        codes = self._launcher.ended()
        if codes is None:
            self.kill()
        assert codes is not None, f"{self.out}: the run hangs"
        return codes

    def kill(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
        self._launcher.ended()

    def is_running(self) -> bool:
        """Whether the first process has not ended."""
        try:
            return Path(f"/proc/{self.processes[0]}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):  # the launcher has taken its exit code already
            return False

    def wait_for_steps(self, count: int) -> None:
        deadline = time.monotonic() + 200
        while logged_steps(self.out) < count:
            assert time.monotonic() < deadline, "the run does not move"
            time.sleep(0.01)


@contextmanager
def started_launcher() -> Iterator[Launcher]:
    command = [sys.executable, str(Path(__file__).with_name("launcher.py"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    # Without a buffer, so that what has not been read is seen by select.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment
    ) as process:
        launcher = Launcher(process)
        yield launcher
        launcher.end()
        assert process.stdin is not None
        process.stdin.close()


def printed(out: Path, rank: int = 0) -> str:
    """What a rank of the last run into ``out`` printed."""
    return Path(f"{out}.{rank}").read_text()


def log_lines(out: Path, stage: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / stage / "log.jsonl").read_text().splitlines()]


def logged_steps(out: Path) -> int:
    """Steps in the logs of all stages."""
    return sum(len(path.read_bytes().splitlines()) for path in out.glob("*/log.jsonl"))


def weights(final: Path) -> dict[str, torch.Tensor]:
    """All tensors of a result, a checkpoint or a bundle, by file and name."""
    files = sorted(final.rglob("*.safetensors"))
    assert files
    return {f"{file.name}: {name}": tensor for file in files for name, tensor in load_file(file).items()}


def largest_difference(one: Path, other: Path) -> float:
    """Between the weights of two results, over all components."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


def with_settings(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with other settings in all stages."""
    return recipe.model_copy(update={"stages": tuple(stage.model_copy(update=changes) for stage in recipe.stages)})
