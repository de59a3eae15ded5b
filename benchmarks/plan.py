"""Seconds and memory of a stage's plan for 10^4, 10^5 and 10^6 samples of videos, images and text.

What is measured begins where a training run begins when its tables are there already: the annotation table is put
together, the length table is mapped from disk, and all packs of the first epoch are made. Every measurement is a
process of its own, once for seconds (CPU, one thread, best of ``--repeats``) and growth of resident memory, once more
for Python's and numpy's own peak (tracemalloc, which would slow the first). Lengths are drawn: 40% videos of 2056
tokens, 40% images of 576, 20% text alone, each with text of about 140 tokens, log-normal.

    python benchmarks/plan.py
    python benchmarks/plan.py --sizes 1000 10000 --repeats 1      # seconds

The last line, ``ratio <number>``, is seconds per sample at the largest size over those at the size before it, the
larger of both orders: near 1 means linear growth.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np

from vidtune.data.tables import AnnotationFile, AnnotationTable
from vidtune.planning.lengths import LengthTable
from vidtune.planning.packing import CostModel
from vidtune.planning.plan import StagePlan
from vidtune.recipe.types import Stage

ORDERS = ("shuffled", "modality_grouped")
COST = CostModel(squared=2e-5, items={"image": 12.0, "video": 130.0})


def main() -> None:
    options = parse_options()
    if options.child:
        print(json.dumps(measure(options)))
        return
    describe(options)
    columns = ["order", "samples", "CPU s", "us per sample", "peak bytes per sample", "RSS growth, bytes per sample"]
    columns += ["packs per step", "fill", "mean / max cost of a step"]
    print(f"\n| {' | '.join(columns)} |")
    print(f"| --- |{' ---: |' * (len(columns) - 1)}")
    ratio = 0.0
    for order in ORDERS:
        seconds: dict[int, float] = {}
        for size in options.sizes:
            with tempfile.TemporaryDirectory() as folder:
                write_tables(Path(folder), size, options.seed)
                runs = [child(options, folder, size, order, trace=False) for _ in range(options.repeats)]
                peak = child(options, folder, size, order, trace=True)["peak"]
            seconds[size] = min(run["seconds"] for run in runs)
            growth = max(run["growth"] for run in runs)
            print(
                f"| {order} | {size:,} | {seconds[size]:.3f} | {seconds[size] / size * 1e6:.2f} | {peak / size:.0f} "
                f"| {growth / size:.0f} | {runs[0]['packs']:.1f} | {runs[0]['fill']:.3f} | {runs[0]['balance']:.3f} |"
            )
        before, largest = sorted(options.sizes)[-2:]
        ratio = max(ratio, seconds[largest] / largest / (seconds[before] / before))
    print(f"\nratio {ratio:.2f}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**4, 10**5, 10**6], help="samples; at least two")
    parser.add_argument("--global-batch-size", type=int, default=256)
    parser.add_argument("--max-tokens", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=3, help="the best counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=3, metavar=("FOLDER", "ORDER", "TRACE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if len(options.sizes) < 2:
        parser.error("--sizes needs at least two numbers")
    return options


def describe(options: argparse.Namespace) -> None:
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file():
        cpu = next((line.split(": ")[1] for line in info.read_text().splitlines() if "model name" in line), cpu)
    print(f"machine: {cpu}, {os.cpu_count()} cores, 1 thread used")
    print(f"versions: Python {platform.python_version()}, numpy {np.__version__}")
    print(
        f"steps of {options.global_batch_size} samples, packs of at most {options.max_tokens} tokens; "
        f"seed {options.seed}; best of {options.repeats}"
    )


def write_tables(folder: Path, size: int, seed: int) -> None:
    """The columns of an annotation table and a length table, as a run finds them in its cache."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, size, p=[0.4, 0.4, 0.2])
    text = np.minimum(rng.lognormal(4.6, 0.7, size).astype(np.int32) + 40, 2000)
    media = np.choose(kind, [2056, 576, 0]).astype(np.int32)
    items = [(kind == 1).astype(np.int32), (kind == 0).astype(np.int32)]
    np.save(folder / "lengths.npy", np.stack([text + media, text // 2, media, *items]))
    (folder / "records.bin").touch()
    np.save(folder / "offsets.npy", np.zeros(size + 1, np.int64))
    np.save(folder / "word_lengths.npy", np.where(media > 0, text, -text))
    np.save(folder / "has_media.npy", media > 0)
    np.save(folder / "by_id.npy", np.zeros(size, bool))


def child(options: argparse.Namespace, folder: str, size: int, order: str, trace: bool) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", folder, order, str(int(trace))]
    command += ["--global-batch-size", str(options.global_batch_size), "--max-tokens", str(options.max_tokens)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if result.returncode:
        raise SystemExit(f"error: {size} samples, {order}:\n{result.stderr}")
    return json.loads(result.stdout)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Make the plan in this process."""
    folder, order, trace = Path(options.child[0]), options.child[1], options.child[2] == "1"
    stage = Stage(
        name="stage",
        train={"connectors": 1e-3},
        data=[{"annotations": "train.json"}],
        order=order,
        global_batch_size=options.global_batch_size,
        max_tokens_per_batch=options.max_tokens,
    )
    if trace:
        tracemalloc.start()
    resident, start = resident_bytes(), time.process_time()
    file = AnnotationFile.parsed("train", Path("train.json"), None, "0" * 64, folder)
    table = AnnotationTable([file])
    tokens, supervised, media_tokens, images, videos = np.load(folder / "lengths.npy", mmap_mode="r")
    lengths = LengthTable(tokens, supervised, media_tokens, {"image": images, "video": videos})
    plan = StagePlan.of(stage, table, lengths, 42, COST)
    packs = plan.packs_of_epoch(0)
    seconds = time.process_time() - start
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - resident
    peak = tracemalloc.get_traced_memory()[1] if trace else 0
    costs = [plan.costs(step) for step in range(min(100, plan.total_steps))]
    return {
        "seconds": seconds,
        "growth": growth,
        "peak": peak,
        "packs": (len(packs.begins) - 1) / plan.steps_per_epoch,
        "fill": float(tokens.sum() / ((len(packs.begins) - 1) * options.max_tokens)),
        "balance": float(np.mean([cost.mean() / cost.max() for cost in costs])),
    }


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
