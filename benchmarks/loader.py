"""Samples per second that the media workers deliver, over plain decoding in one process per core.

Delivered: what training does without its steps: the plan's packs, media through the worker pool (one worker per core)
and its shared memory, stacked into batches, ready in the queue. Alone: processes that call the same preprocessing on
the same files in a loop and throw the result away, without pool, queue or copies. The training process itself (handing
out, copying, stacking) shares the cores with its workers here.

Wall time, measured in turns; ``ratio`` is the median over the pairs of turns. CPU time per sample stands beside it, for
a busy machine moves it less; that of "delivered" is the workers' and the training process's. The last line is the worst
row's ratio.

    python benchmarks/loader.py
    python benchmarks/loader.py --seconds 2 --pairs 1 --kinds images     # seconds
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Queue
from statistics import median

# As the command line has it; must be set before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import av
import decode
import numpy as np
import torch

from vidtune.data.sample import MediaRef
from vidtune.machine.cores import available_cores
from vidtune.media.pool import LoadJob, LoadResult, MediaPool
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing, VideoPreprocessing
from vidtune.planning.lengths import LengthTable
from vidtune.planning.plan import PlannedSource, StagePlan
from vidtune.processing.batch import Example, MediaSlot
from vidtune.recipe.types import Stage
from vidtune.training.packs.ahead import Ahead
from vidtune.training.packs.loading import PackLoader

FRAMES, SIZE, SECONDS_OF_VIDEO = 8, 224, 10
TOKENS = {"video": FRAMES * 257, "image": 256}
TEXT_TOKENS = 60
REMEMBERED = 64 * 2**20  # bytes of recent files: little, so that it is full, as in a run, before measuring begins
COPIES = 4  # of every file, so that processes do not read the same one at once
Files = list[tuple[str, str]]
"""Stream and path of each sample."""


def write_files(folder: Path) -> dict[str, Files]:
    """The files of every row of the table."""
    large, small, photo = folder / "1280x720.mp4", folder / "640x360.mp4", folder / "640x480.jpg"
    decode.write_video(large, SECONDS_OF_VIDEO, gop=250, b_frames=3)
    with av.open(str(large)) as source, av.open(str(small), "w") as target:
        stream = target.add_stream("libx264", rate=decode.FPS, options={"preset": "veryfast", "crf": "26"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for number, frame in enumerate(source.decode(video=0)):
            if number == 0:
                frame.to_image(width=640, height=480).save(photo, quality=90)
            target.mux(stream.encode(frame.reformat(640, 360, "yuv420p")))
        target.mux(stream.encode())
    rows: dict[str, Files] = {
        "video 640x360": [("video", copy) for copy in copies(small)],
        "video 1280x720": [("video", copy) for copy in copies(large)],
        "images 640x480": [("image", copy) for copy in copies(photo)],
    }
    mixture = [sample for samples in zip(*rows.values(), strict=True) for sample in samples]
    return {**rows, "mixture, a third each": mixture}


def copies(path: Path) -> list[str]:
    names = [path.with_stem(f"{path.stem}_{number}") for number in range(COPIES)]
    for name in names:
        name.write_bytes(path.read_bytes())
    return [str(name) for name in names]


class CountingPool(MediaPool):
    """Adds up what its workers computed."""

    loaded, cpu_seconds = 0, 0.0

    def load(self, jobs: Iterable[LoadJob]) -> Iterator[LoadResult]:
        for result in super().load(jobs):
            self.loaded += 1
            self.cpu_seconds += result.cpu_seconds
            yield result


def decode_alone(
    files: Files, preprocessing: dict[str, Preprocessing], seconds: float, go: Barrier, rates: Queue
) -> None:
    """One process: load files in a loop; tells how many per second, and CPU milliseconds for each."""
    torch.set_num_threads(1)
    for stream, path in files:
        preprocessing[stream].load(path)
    go.wait()
    done, started, used = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - started) < seconds or done % len(files):
        stream, path = files[done % len(files)]
        preprocessing[stream].load(path)
        done += 1
    rates.put((done / elapsed, 1000 * (time.process_time() - used) / done))


def alone(files: Files, preprocessing: dict[str, Preprocessing], seconds: float, cores: int) -> tuple[float, float]:
    """Samples per second of one process per core together, and CPU milliseconds for each sample."""
    context = multiprocessing.get_context("forkserver")
    go, rates = context.Barrier(cores), context.Queue()
    arguments = (files, preprocessing, seconds, go, rates)
    processes = [context.Process(target=decode_alone, args=arguments) for _ in range(cores)]
    for process in processes:
        process.start()
    found = [rates.get() for _ in processes]
    for process in processes:
        process.join()
    return sum(rate for rate, _ in found), sum(used for _, used in found) / cores


def delivered(
    files: Files, preprocessing: dict[str, Preprocessing], seconds: float, pool: CountingPool
) -> tuple[float, float, float]:
    """Samples per second that arrive in packs, and CPU milliseconds for each: of the workers, of this process."""
    pool.loaded, pool.cpu_seconds = 0, 0.0
    plan, make_example = planned(files)
    loader = PackLoader(plan, make_example, preprocessing, pool)
    with Ahead(iter(loader), max_bytes=pool.max_waiting) as packs:
        for _ in range(6):
            packs.next()
        samples, started, used = 0, time.perf_counter(), time.process_time()
        while (elapsed := time.perf_counter() - started) < seconds:
            batch = packs.next().batch
            assert batch is not None
            samples += len(batch.ids)
        here = (time.process_time() - used) / samples
        return samples / elapsed, 1000 * pool.cpu_seconds / pool.loaded, 1000 * here


def planned(files: Files) -> tuple[StagePlan, Callable[[int, int], Example]]:
    """A plan that never ends, and its examples. No two samples are taken for the same: each has a seed of its own."""
    stage = Stage.model_validate(
        {"name": "stage", "train": {"connectors": 1e-3}, "data": [{"annotations": "none"}], "global_batch_size": 128}
        | {"order": "sequential", "epochs": 10**6}
    )
    samples = files * (384 // len(files))
    tokens = np.array([TOKENS[stream] + TEXT_TOKENS for stream, _ in samples], np.int32)
    lengths = LengthTable(tokens, np.full_like(tokens, TEXT_TOKENS), tokens - TEXT_TOKENS, {})
    sources = [PlannedSource("none", "none", len(samples))]

    def make_example(index: int, epoch: int) -> Example:
        stream, path = samples[index]
        ids = np.zeros(tokens[index], np.int64)
        slot = MediaSlot(MediaRef(stream, path), TOKENS[stream], seed=epoch * len(samples) + index)
        return Example(str(index), ids, ids, (slot,))

    return StagePlan(stage, sources, lengths, tokens, "none", 0), make_example


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6, help="of each measurement")
    parser.add_argument("--pairs", type=int, default=5, help="measurements of both ways, in turns")
    parser.add_argument("--kinds", nargs="+", default=[], help="rows whose name holds one of these words")
    parser.add_argument("--pixels", nargs="+", default=["float32", "uint8"])
    arguments = parser.parse_args()

    cores = available_cores()
    torch.set_num_threads(1)
    print(decode.machine())
    print(decode.versions(["vidtune", "av", "numpy", "torch", "pillow"]))
    print(f"\n{FRAMES} frames of {SECONDS_OF_VIDEO} s of video, or an image, to {SIZE}x{SIZE}; {cores} processes,")
    print(f"{arguments.pairs} x {arguments.seconds:g} s each way, in turns;", end=" ")
    print("samples/s and CPU ms per sample\n")
    print("| media | pixels | alone | delivered | ratio | lowest, highest | CPU alone | CPU delivered |")
    print("| --- | --- | ---: | ---: | ---: | --- | ---: | ---: |")
    worst = float("inf")
    with tempfile.TemporaryDirectory() as folder, CountingPool(cores, timeout=60, max_waiting=REMEMBERED) as pool:
        for name, files in write_files(Path(folder)).items():
            if arguments.kinds and not any(word in name for word in arguments.kinds):
                continue
            for pixels in arguments.pixels:
                preprocessing: dict[str, Preprocessing] = {
                    "image": ImagePreprocessing(size=SIZE, pixels=pixels),
                    "video": VideoPreprocessing(size=SIZE, num_frames=FRAMES, pixels=pixels),
                }
                pairs = [
                    (
                        *alone(files, preprocessing, arguments.seconds, cores),
                        *delivered(files, preprocessing, arguments.seconds, pool),
                    )
                    for _ in range(arguments.pairs)
                ]
                ratios = [ours / theirs for theirs, _, ours, *_ in pairs]
                theirs, used, ours, workers, here = (median(column) for column in zip(*pairs, strict=True))
                worst = min(worst, median(ratios))
                print(
                    f"| {name} | {pixels} | {theirs:.1f} | {ours:.1f} | {median(ratios):.2f} "
                    f"| {min(ratios):.2f}, {max(ratios):.2f} | {used:.1f} | {workers:.1f} + {here:.1f} |",
                    flush=True,
                )
    print(f"\nratio {worst:.2f}")


if __name__ == "__main__":
    main()
