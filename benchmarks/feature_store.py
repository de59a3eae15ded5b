"""Samples per second of an epoch from the feature store over decoding and encoding, and what filling the store costs.

An epoch is what training does for its media: the plan's packs through worker processes, loader and queue, then tower
and connector; no language model. Plain: every file is decoded and encoded. First: the same, and features are written to
an empty store behind the work; the time ends when all of them are on disk. Stored: they are read from there, by a new
reader. The files differ, so none is remembered; the store was just written, so the system may hold it in memory, as it
holds the files.

Wall time, measured in turns; ratios are medians over the rounds. "CPU" is first over plain again, in seconds that this
process and its workers computed, which a busy machine moves less. The last line has the lowest stored over plain
(samples/s) and the highest first over plain (seconds).

    python benchmarks/feature_store.py
    python benchmarks/feature_store.py --files 16 --rounds 1 --kinds images     # seconds
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

# As the command line has it; must be set before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import decode
import loader
import numpy as np
import torch
from transformers import AutoConfig

from vidtune.data.sample import MediaRef
from vidtune.features.cache import FeatureCache
from vidtune.features.collection import CollectionSpec
from vidtune.machine.cores import available_cores
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing, VideoPreprocessing
from vidtune.models.video_lm import VideoLM
from vidtune.planning.lengths import LengthTable
from vidtune.planning.plan import PlannedSource, StagePlan
from vidtune.processing.batch import Example, MediaSlot
from vidtune.recipe.types import Stage
from vidtune.registry import SYSTEMS
from vidtune.training.packs.ahead import Ahead
from vidtune.training.packs.loading import PackLoader
from vidtune.training.setup.stored_features import StoredFeatures

FRAMES, SIZE, PATCH = 8, 224, 16
TOWER = {
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "image_size": SIZE,
    "patch_size": PATCH,
}
TEXT_TOKENS = 60
IMAGES_PER_CLIP = 16  # files of pictures for each video, so that their epochs last as long
SAMPLES_PER_PACK = 4
PREPROCESSING: dict[str, Preprocessing] = {
    "image": ImagePreprocessing(size=SIZE),
    "video": VideoPreprocessing(size=SIZE, num_frames=FRAMES),
}
Files = list[tuple[str, str]]
"""Stream and path of each sample."""


def write_files(folder: Path, number: int) -> dict[str, Files]:
    """The files of every row of the table, all different to the store."""
    loader.COPIES = 1
    rows = loader.write_files(folder)
    chosen = {name: rows[name][0] for name in ("video 640x360", "video 1280x720", "images 640x480")}
    found: dict[str, Files] = {}
    for name, (stream, path) in chosen.items():
        found[name] = []
        for copy in range(number * (IMAGES_PER_CLIP if stream == "image" else 1)):
            target = Path(path).with_stem(f"{Path(path).stem}-{copy}")
            shutil.copyfile(path, target)
            os.utime(target, ns=(copy, copy))
            found[name].append((stream, str(target)))
    return found


def build() -> VideoLM:
    """Tiny CLIP towers with a connector; the language model is there for its width alone."""
    torch.manual_seed(0)
    text = AutoConfig.for_model(
        "llama", vocab_size=100, hidden_size=256, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    video = {**TOWER, "num_frames": FRAMES}
    model = VideoLM(SYSTEMS["video_llava"].architecture.build_config(text, {"image": TOWER, "video": video}, {}))
    return model.requires_grad_(False).eval()


def planned(files: Files, model: VideoLM) -> tuple[StagePlan, dict[int, Example]]:
    """A plan of one epoch over the files, and its examples."""
    shape = model.config.tower(files[0][0]).input_shape()
    tokens = model.config.num_tokens(files[0][0], shape)
    per_sample = tokens + TEXT_TOKENS
    stage = Stage.model_validate(
        {"name": "stage", "train": {"connectors": 1e-3}, "data": [{"annotations": "none"}], "order": "sequential"}
        | {"global_batch_size": SAMPLES_PER_PACK, "max_tokens_per_batch": SAMPLES_PER_PACK * per_sample}
    )
    column = np.full(len(files), per_sample, np.int32)
    lengths = LengthTable(column, np.full_like(column, TEXT_TOKENS), column - TEXT_TOKENS, {})
    examples = {}
    for number, (stream, path) in enumerate(files):
        ids = np.zeros(per_sample, np.int64)
        examples[number] = Example(str(number), ids, ids, (MediaSlot(MediaRef(stream, path), tokens),))
    return StagePlan(stage, [PlannedSource("none", "none", len(files))], lengths, column, "none", 0), examples


@torch.no_grad()
def epoch(files: Files, model: VideoLM, pool: loader.CountingPool, store: Path | None) -> tuple[float, float]:
    """Seconds of an epoch, and how many were computed; with a store, until all that was computed is written."""
    plan, examples = planned(files, model)
    stored, pool.cpu_seconds = StoredFeatures(), 0.0
    started, used = time.perf_counter(), time.process_time()
    if store is not None:
        stream = files[0][0]
        config = model.config.tower(stream)
        spec = CollectionSpec.of(model.towers[stream], config, PREPROCESSING[stream], "float32", {})
        stored.towers[stream] = FeatureCache(store, spec)
    model.keep_features = stored.keep
    packs_of = PackLoader(plan, lambda index, epoch: examples[index], PREPROCESSING, pool, stored=stored)
    with stored, Ahead(iter(packs_of), max_bytes=pool.max_waiting) as packs:
        for _ in range(plan.total_steps):
            batch = packs.next().batch
            assert batch is not None
            for name, media in batch.media.items():
                list(model.encode_items(name, media))
    return time.perf_counter() - started, time.process_time() - used + pool.cpu_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=64, help="videos of an epoch; pictures are 16 times as many")
    parser.add_argument("--rounds", type=int, default=5, help="of all three epochs, in turns")
    parser.add_argument("--kinds", nargs="+", default=[], help="rows whose name holds one of these words")
    arguments = parser.parse_args()

    workers = max(1, available_cores() - 1)
    model = build()
    print(decode.machine())
    print(decode.versions(["vidtune", "av", "numpy", "torch", "safetensors"]))
    print(f"\n{arguments.files} files; {FRAMES} frames of 10 s of video, or an image, at {SIZE}x{SIZE}; CLIP tower of")
    print(
        f"{TOWER['num_hidden_layers']} layers, width {TOWER['hidden_size']}, patches {PATCH}; {workers} media workers,"
    )
    print(f"{torch.get_num_threads()} compute threads; {arguments.rounds} rounds; samples/s\n")
    print(
        "| media | plain | first | stored | stored/plain | lowest, highest | first/plain (s) | lowest, highest | CPU |"
    )
    print("| --- | ---: | ---: | ---: | ---: | --- | ---: | --- | ---: |")
    slowest, dearest = float("inf"), 0.0
    with tempfile.TemporaryDirectory() as folder, loader.CountingPool(workers, timeout=60) as pool:
        for name, files in write_files(Path(folder), arguments.files).items():
            if arguments.kinds and not any(word in name for word in arguments.kinds):
                continue
            epoch(files[: 2 * SAMPLES_PER_PACK], model, pool, None)
            rounds = []
            for number in range(arguments.rounds):
                store = Path(folder) / f"store-{number}"
                # Plain on both sides of first: what slows the machine down meanwhile slows both.
                before, first = epoch(files, model, pool, None), epoch(files, model, pool, store)
                after, stored = epoch(files, model, pool, None), epoch(files, model, pool, store)
                plain = [(one + other) / 2 for one, other in zip(before, after, strict=True)]
                rounds.append((plain[0], first[0], stored[0], first[1] / plain[1]))
                shutil.rmtree(store)
            rates = [[len(files) / seconds for seconds in row[:3]] for row in rounds]
            gains = [plain / stored for plain, _, stored, _ in rounds]
            costs = [first / plain for plain, first, *_ in rounds]
            slowest, dearest = min(slowest, median(gains)), max(dearest, median(costs))
            rate, first_rate, stored_rate = (median(column) for column in zip(*rates, strict=True))
            print(
                f"| {name} | {rate:.1f} | {first_rate:.1f} | {stored_rate:.1f} | {median(gains):.1f} "
                f"| {min(gains):.1f}, {max(gains):.1f} | {median(costs):.3f} | {min(costs):.3f}, {max(costs):.3f} "
                f"| {median(row[3] for row in rounds):.3f} |",
                flush=True,
            )
    print(f"\nstored/plain {slowest:.1f}, first/plain {dearest:.3f}")


if __name__ == "__main__":
    main()
