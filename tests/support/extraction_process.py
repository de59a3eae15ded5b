"""Extracts features in child processes without importing torch each time: forks for every line of stdin.

A line is a JSON object: {"videos": folder, "store": folder, "rank": number, "ranks": number}. The process answers with
the child's id, and then with its exit code, or minus the signal that ended it.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import torch
from feature_world import stream_into

from vidtune.features.extract import extract
from vidtune.features.media_listing import refs_of_folder, share_of
from vidtune.media.pool import MediaPool

SHARD_BYTES = 3000
"""Two clips: a run writes many shards."""


def extract_here(order: dict) -> None:
    stream = stream_into(Path(order["store"]), shard_bytes=SHARD_BYTES, shard_seconds=1e9)
    refs = share_of(refs_of_folder(Path(order["videos"]), [stream]), order["rank"], order["ranks"])
    with MediaPool(0, None) as pool:
        extract(refs, {"video": stream}, pool, batch_size=1)


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        orders = json.loads(line)
        children = []
        for order in orders:
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    extract_here(order)
                    code = 0
                except BaseException:
                    traceback.print_exc()
                os._exit(code)
            children.append(child)
        print(json.dumps(children), flush=True)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    main()
