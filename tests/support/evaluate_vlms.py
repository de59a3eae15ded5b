"""Evaluates tiny models of transformers by the real command, in a process where stand-ins for torchvision are on the
path: ``python evaluate_vlms.py FOLDER DATA``."""

import sys
from pathlib import Path

from tiny_vlms import KINDS, write_vlm

from vidtune.cli.main import run


def main(folder: Path, data: str) -> int:
    for kind in KINDS:
        model = write_vlm(folder / kind, kind)
        words = ["evaluate", str(model), "--benchmark", "world_qa", "--data", data, "--out", str(folder / "out" / kind)]
        words += ["--workers", "0", "--device", "cpu", "--protocol", "preprocessing.num_frames=3"]
        words += ["--protocol", "generation.max_new_tokens=3"]
        # The port of Video-LLaVA is one of our systems too.
        if code := run([*words, *(["--transformers"] if kind == "video_llava" else [])]):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
