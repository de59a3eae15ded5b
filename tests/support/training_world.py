"""A tiny world for training: real video files, conversations about them, a model of a few thousand weights."""

from pathlib import Path
from typing import Any

import av
import numpy as np

TOWER = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 28}
LANGUAGE_MODEL = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "white": (230, 230, 230)}


def write_video(
    path: Path, colour: tuple[int, int, int], frames: int = 6, side: int = 32, width: int | None = None
) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height = width or side, side
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            pixels = np.full((side, width or side, 3), 20, np.uint8)
            pixels[8:24, 2 * number : 2 * number + 8] = colour
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())


def conversation(question: str, answer: str, **media: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {**media, "conversations": turns}


def mixed_samples() -> list[dict[str, Any]]:
    """Eleven samples: videos, images, one with both, text only."""
    videos = [conversation("<video>\nWhat moves?", f"a {c} box.", video=f"{c}.mp4") for c in COLOURS]
    images = [conversation("<image>\nWhich colour?", f"{c}.", image=f"{c}.png") for c in COLOURS]
    both = [conversation("<video>\n<image>\nSame colour?", "no.", video="red.mp4", image="blue.png")]
    return videos + images + both + [conversation("Say hello.", "hello."), conversation("Count to two.", "one two.")]
