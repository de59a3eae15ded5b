"""Starts training runs in child processes without importing torch each time: forks for every line of stdin.

A line is a JSON object {"recipe": file, "out": folder}. The launcher answers with the child's process id, waits for it,
and answers with its exit code: 0, the interruption's own, 2 for a user's mistake, or minus the signal.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import torch
import torch.utils.tensorboard

from vidtune.errors import UserError
from vidtune.recipe import load_recipe
from vidtune.training.run import train
from vidtune.training.signals import TrainingInterrupted


def train_here(order: dict[str, str]) -> int:
    os.setsid()
    try:
        train(load_recipe(order["recipe"]), Path(order["out"]), progress=False)
    except TrainingInterrupted as interruption:
        print(interruption, file=sys.stderr)
        return interruption.exit_code
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = train_here(json.loads(line))
            os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
