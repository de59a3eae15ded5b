"""Decoding N uniformly spaced frames of a video as full-resolution RGB: vidtune against PyAV, decord and torchcodec.

CPU seconds of the whole process on one decoder thread, opening included, best of the repetitions; files are 1280x720 at
30 frames a second, made here. Every method's pixels are compared with plain decoding from start to end.
``ratio`` is the best other method's time over ours; the last line is the worst cell.

    python benchmarks/decode.py --seconds 40
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path

import av
import numpy as np
from PIL import Image

from vidtune.media.preprocessing.frame_sampling import frame_indices
from vidtune.media.probe import probe
from vidtune.media.video import read_frames

WIDTH, HEIGHT, FPS = 1280, 720, 30
Reader = Callable[[str, Sequence[int]], np.ndarray]


def write_video(path: Path, seconds: float, gop: int, b_frames: int) -> None:
    """A textured background and two objects that move against each other, with mild camera noise.

    With 3 B-frames, no other picture refers to half of the pictures, as in videos encoded with x264's defaults.
    """
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 200, (90, 130, 3), dtype=np.uint8))
    background = np.asarray(coarse.resize((2600, 1800), Image.Resampling.BICUBIC)) // 2 + 40
    things = [np.asarray(coarse.rotate(angle).resize((240, 200))) for angle in (90, 180)]
    noise = random.integers(0, 10, (HEIGHT + 64, WIDTH + 64, 3), dtype=np.uint8)
    structure = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes={b_frames}:b-adapt=0"
    options = {"preset": "veryfast", "crf": "26", "x264-params": structure}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(int(seconds * FPS)):
            angle = index / 90
            top, left = int(500 + 450 * np.sin(angle)), int(600 + 550 * np.cos(1.3 * angle))
            picture = background[top : top + HEIGHT, left : left + WIDTH].copy()
            for number, thing in enumerate(things):
                x = int(500 + 480 * np.cos(angle * (2 + number)))
                y = int(250 + 240 * np.sin(angle * (3 - number)))
                picture[y : y + 200, x : x + 240] = thing
            shift_y, shift_x = random.integers(0, 64, 2)
            picture += noise[shift_y : shift_y + HEIGHT, shift_x : shift_x + WIDTH]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def pyav_sequential(path: str, indices: Sequence[int]) -> np.ndarray:
    """Decode from the start to the last frame asked for, convert only what is asked for."""
    slots = {index: slot for slot, index in enumerate(indices)}
    frames = np.empty((len(indices), HEIGHT, WIDTH, 3), np.uint8)
    with av.open(path) as container:
        container.streams.video[0].thread_type = "NONE"
        for index, frame in enumerate(container.decode(video=0)):
            if index in slots:
                frames[slots[index]] = frame.to_ndarray(format="rgb24", threads=1)
            if index == indices[-1]:
                break
    return frames


def decord_batch(path: str, indices: Sequence[int]) -> np.ndarray:
    import decord

    return decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1).get_batch(list(indices)).asnumpy()


def torchcodec_exact(path: str, indices: Sequence[int]) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode="exact", dimension_order="NHWC")
    return decoder.get_frames_at(list(indices)).data.numpy()


def torchcodec_approximate(path: str, indices: Sequence[int]) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode="approximate", dimension_order="NHWC")
    return decoder.get_frames_at(list(indices)).data.numpy()


def peers() -> dict[str, Reader]:
    """The other methods that can be imported here."""
    found: dict[str, Reader] = {"PyAV sequential": pyav_sequential}
    try:
        import decord  # noqa: F401

        found["decord"] = decord_batch
    except (ImportError, OSError):
        print("decord: not installed")
    try:
        import torchcodec.decoders  # noqa: F401

        found |= {"torchcodec exact": torchcodec_exact, "torchcodec approximate": torchcodec_approximate}
    except (ImportError, OSError, RuntimeError):
        print("torchcodec: not installed, or without its libraries")
    return found


def best_times(
    readers: dict[str, Reader], path: str, indices: Sequence[int], repetitions: int
) -> tuple[dict[str, float], dict[str, bool]]:
    """CPU seconds of every method, taking turns in changing order, and whether its pixels equal plain decoding."""
    expected = pyav_sequential(path, indices)
    seconds = {name: float("inf") for name in readers}
    equal = {}
    names = list(readers)
    for _ in range(repetitions):
        names.append(names.pop(0))
        for name in names:
            started = time.process_time()
            frames = readers[name](path, indices)
            seconds[name] = min(seconds[name], time.process_time() - started)
            if name not in equal:
                equal[name] = np.array_equal(frames, expected)
            del frames
    return seconds, equal


def machine() -> str:
    model = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        names = [line.split(":")[1].strip() for line in cpu_info.read_text().splitlines() if "model name" in line]
        model = f"{names[0]}, {len(names)} cores" if names else model
    return f"{model}; {platform.system()}; Python {platform.python_version()}"


def versions(names: Sequence[str]) -> str:
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40, help="length of the videos")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--counts", type=int, nargs="+", default=[8, 64, 256], help="frames per video")
    parser.add_argument("--gops", type=int, nargs="+", default=[30, 250], help="frames between key frames")
    parser.add_argument("--folder", type=Path, help="keeps the videos there (default: a temporary folder)")
    arguments = parser.parse_args()

    print(machine())
    print(versions(["vidtune", "av", "decord", "torchcodec", "numpy", "torch"]))
    print("FFmpeg in PyAV", av.ffmpeg_version_info)
    readers: dict[str, Reader] = {"vidtune": read_frames} | peers()
    print(f"\nCPU s, 1 thread, {arguments.seconds:g} s of {WIDTH}x{HEIGHT}, best of {arguments.repetitions}\n")
    print("| GOP | B-frames | N | " + " | ".join(readers) + " | ratio |")
    print("| --- " * (len(readers) + 4) + "|")
    worst = {0: float("inf"), 3: float("inf")}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for b_frames, gop in product((3, 0), arguments.gops):
            path = folder / f"gop{gop}_b{b_frames}_{arguments.seconds:g}s.mp4"
            if not path.exists():
                write_video(path.with_suffix(".part.mp4"), arguments.seconds, gop, b_frames)
                path.with_suffix(".part.mp4").rename(path)
            for count in arguments.counts:
                indices = frame_indices("linspace", probe(path).num_frames, count)
                seconds, equal = best_times(readers, str(path), indices, arguments.repetitions)
                if not equal["vidtune"]:
                    raise SystemExit(f"pixels differ from plain decoding: {path.name}, {count} frames")
                ratio = min(seconds[name] for name in readers if name != "vidtune") / seconds["vidtune"]
                worst[b_frames] = min(worst[b_frames], ratio)
                cells = [f"{seconds[name]:.2f}" + ("" if equal[name] else " (differs)") for name in readers]
                print(f"| {gop} | {b_frames} | {count} | " + " | ".join(cells) + f" | {ratio:.2f} |", flush=True)
    print(f"\nPixels of vidtune equal plain decoding in every cell. Worst with B-frames: {worst[3]:.2f} (wanted 1.3),")
    print(f"without: {worst[0]:.2f} (wanted 0.95).")
    print(f"ratio {min(worst.values()):.2f}")


if __name__ == "__main__":
    main()
