"""What seeing costs: parameters, operations and time of every system's tower and connector, at their published sizes.

    python benchmarks/visual_cost.py [--device cuda] [--videos 1] [--repeats 2]

Weights are random: nothing is downloaded, and no language model is built. Operations are counted (a multiplication and
an addition are two), time is measured: seconds of processor time on CPU, of the clock on a GPU.
"""

import argparse
import time

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from vidtune.models.config import VideoLMConfig
from vidtune.registry import SYSTEMS

STREAM = "video"
SHAPES = {"square": (1, 1), "16:9": (9, 16)}


def visual_part(config: VideoLMConfig) -> nn.ModuleList:
    parts = config.streams[STREAM]
    return nn.ModuleList([config.tower(parts["tower"]).build(), config.connector(parts["connector"]).build()]).eval()


def clip_shape(system: str, config: VideoLMConfig, height: int, width: int) -> tuple[int, ...]:
    """What preprocessing makes of a clip of this shape that is long enough."""
    from vidtune.media.clip_times import ClipTimes
    from vidtune.media.probe import MediaInfo

    info = MediaInfo("video", width * 100, height * 100, ClipTimes.evenly(1000, 25), False, 0)
    return SYSTEMS[system].architecture.preprocessing(config)[STREAM].output_shape(info)


def see(part: nn.ModuleList, clips: Tensor) -> Tensor:
    tower, connector = part
    return connector(tower(clips))


def operations(config: VideoLMConfig, shape: tuple[int, ...]) -> float:
    with torch.device("meta"):
        part, clips = visual_part(config), torch.empty(1, *shape)
        with FlopCounterMode(display=False) as counter:
            see(part, clips)
    return counter.get_total_flops()


def seconds(part: nn.ModuleList, clips: Tensor, repeats: int) -> float:
    """The fastest of some runs, after one that does not count."""
    on_gpu = clips.device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    best = float("inf")
    with torch.inference_mode():
        for run in range(repeats + 1):
            start = clock()
            see(part, clips)
            if on_gpu:
                torch.cuda.synchronize()
            if run:
                best = min(best, clock() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--videos", type=int, default=1, help="clips in one forward")
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    dtype = torch.bfloat16 if arguments.device.startswith("cuda") else torch.float32
    where = (
        torch.cuda.get_device_name() if arguments.device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    )
    print(f"torch {torch.__version__}, {arguments.device} ({where}), {dtype}, {arguments.videos} clips per forward\n")
    print("| system | clip | parameters (M) | GFLOP per clip | tokens | seconds per clip | frames per second |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    text = AutoConfig.for_model("llama")
    for name in SYSTEMS.names():
        config = SYSTEMS[name].architecture.build_config(text, {}, {})
        if STREAM not in config.streams:
            continue
        part = visual_part(config).to(arguments.device, dtype)
        parameters = sum(parameter.numel() for parameter in part.parameters()) / 1e6
        seen = {clip_shape(name, config, *sides): clip for clip, sides in reversed(SHAPES.items())}
        for shape, clip in sorted(seen.items(), key=lambda entry: entry[1], reverse=True):
            clips = torch.randn(arguments.videos, *shape, device=arguments.device, dtype=dtype)
            each = seconds(part, clips, arguments.repeats) / arguments.videos
            counted = operations(config, shape) / 1e9
            print(
                f"| {name} | {clip if len(seen) > 1 else 'any'} | {parameters:.1f} | {counted:.0f} "
                f"| {config.num_tokens(STREAM, shape)} | {each:.2f} | {shape[1] / each:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
