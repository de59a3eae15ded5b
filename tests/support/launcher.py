"""Starts training runs and other functions in child processes without importing torch each time: forks for every line
of stdin.

A line is a JSON object: {"recipe": file, "out": folder, "ranks": number of processes that train together, "arguments":
of train, "again": start again after an interruption, "sabotage": {"rank", "step", "how"}}, or for any function
{"call": "module:function", "out": path, "ranks": 1, "arguments": [...]}, whose result is the exit code. What process
``r`` prints goes to ``<out>.<r>``. The launcher answers with the processes' ids, waits for all of them, and answers
with their exit codes: 0, the interruption's own, 2 for a user's mistake, 1 for another error, or minus the signal.
The process that media workers are forked from is a fork as well.
"""

import gc
import importlib
import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
import torch.utils.tensorboard
from marked_system import MARKED, marked_system
from PIL import Image

from vidtune.checkpoints.build import build_model
from vidtune.errors import UserError
from vidtune.machine import fork_server, workers
from vidtune.models.video_lm import VideoLM
from vidtune.recipe.files import load_recipe
from vidtune.recipe.types import Recipe
from vidtune.training.packs import loading
from vidtune.training.packs.pack import LoadedPack
from vidtune.training.ranks import parallel
from vidtune.training.ranks.group import Ranks, joined
from vidtune.training.run import train_stages as train
from vidtune.training.signals import TrainingInterrupted

rehearsed: set[str] = set()


def train_here(order: dict[str, Any]) -> int:
    recipe, out = load_recipe(order["recipe"]), Path(order["out"])
    try:
        with joined("cpu") as ranks, marked_system() if recipe.system == MARKED else nullcontext():
            sabotage(ranks, order.get("sabotage"))
            while True:
                try:
                    train(recipe, out, progress=False, ranks=ranks, **order.get("arguments", {}))
                    return 0
                except TrainingInterrupted:
                    if not order.get("again"):
                        raise
    except TrainingInterrupted as interruption:
        print(interruption, file=sys.stderr)
        return interruption.exit_code
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except BaseException:
        traceback.print_exc()
        return 1


def call_here(order: dict[str, Any]) -> int:
    try:
        return function_of(order)(*order["arguments"]) or 0
    except BaseException:
        traceback.print_exc()
        return 1


def function_of(order: dict[str, Any]) -> Any:
    module, name = order["call"].split(":")
    return getattr(importlib.import_module(module), name)


def sabotage(ranks: Ranks, what: dict[str, Any] | None) -> None:
    """Make one rank fail: its loader ("loader"), its forward pass ("forward"), or its loss ("nan")."""
    if what is None:
        return
    if what["how"] == "reduce every pack":
        parallel.WHOLE_GRADIENT_BYTES = 0
    elif what["how"] == "loader" and ranks.rank == what["rank"]:
        real = loading.PackLoader.__iter__

        def broken(self: loading.PackLoader) -> Iterator[LoadedPack]:
            for pack in real(self):
                if pack.step == what["step"]:
                    raise UserError("the disk is gone; bring it back")
                yield pack

        loading.PackLoader.__iter__ = broken
    elif ranks.rank == what["rank"]:
        loss_terms = VideoLM.loss_terms

        def poisoned(self: VideoLM, batch: Any) -> Any:
            if what["how"] == "forward":
                raise RuntimeError("out of memory, say")
            text, aligned = loss_terms(self, batch)
            return text * (float("nan") if batch.ids else 1.0), aligned

        VideoLM.loss_terms = poisoned


def import_once(order: dict[str, Any]) -> None:
    """Import what takes long in this process, for all children that follow."""
    if "call" in order:
        function_of(order)
    else:
        if "lora:" in Path(order["recipe"]).read_text():
            importlib.import_module("peft")
        rehearse(load_recipe(order["recipe"]))
    gc.freeze()  # children share these objects and need not look through them


def rehearse(recipe: Recipe) -> None:
    """Build and write a model of a system: children find its modules imported, and the libraries' tables built."""
    if recipe.system not in rehearsed:
        rehearsed.add(recipe.system)
        system = marked_system() if recipe.system == MARKED else nullcontext()
        with suppress(UserError), system, TemporaryDirectory() as folder:
            build_model(recipe).save_pretrained(folder)


def environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    if ranks == 1:
        return {}
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in place.items()}}


class ForkedServer(subprocess.Popen):
    """Stands for the program that worker processes are forked from: a fork, which need not import the libraries."""

    def __init__(self, command: Sequence[str], pass_fds: Sequence[int], **others: Any) -> None:
        self.pid, self.returncode = os.fork(), None
        if self.pid == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            inherited = {int(path.name) for path in Path("/proc/self/fd").iterdir()}
            for descriptor in inherited - {0, 1, 2, *pass_fds}:
                with suppress(OSError):  # the folder that was listed
                    os.close(descriptor)
            fork_server.serve(*pass_fds)
            os._exit(0)


def fork_worker_server() -> None:
    """Start it before this process has threads and connections."""
    with patch.object(subprocess, "Popen", ForkedServer):
        workers._server = workers._Server()


def fork(order: dict[str, Any], rank: int, port: int) -> int:
    child = os.fork()
    if child == 0:
        os.setsid()
        os.environ.update(environment(rank, order["ranks"], port))
        output = os.open(f"{order['out']}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        fork_worker_server()
        code = call_here(order) if "call" in order else train_here(order)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return child


def main() -> None:
    torch.set_num_threads(1)
    Image.init()  # imports the readers of all formats, which each child would import again
    os.fsync = lambda descriptor: None  # as in conftest.py
    for line in sys.stdin:
        order = json.loads(line)
        import_once(order)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        children = [fork(order, rank, port) for rank in range(order["ranks"])]
        print(json.dumps(children), flush=True)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    main()
