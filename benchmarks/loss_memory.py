"""Peak memory of the loss: ours, in chunks, against transformers' own on the logits of all positions.

Every case runs in a child process of its own. Counted is how far the process' memory rises (its resident high-water
mark over what it holds before) during forward and backward of the head and its loss, less the weight's gradient: that
is the logits, their gradients, all working copies, and the gradient of the hidden states. The hidden states and the
weight exist before. Loss and gradients of both ways must agree.

Time is that of the same step in CPU seconds, one thread. As a full step of transformers takes minutes here, it is
measured once per repeat; the median counts.

    python benchmarks/loss_memory.py
    python benchmarks/loss_memory.py --vocab 32000 --tokens 1024 --hidden 256     # seconds

The last line, ``ratio <number>``, is our memory over transformers' with all positions supervised. Linux only.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from torch import Tensor, nn
from transformers.loss.loss_utils import ForCausalLMLoss

from vidtune.models.language_model.loss import CHUNK_BYTES, head_loss_sum

IGNORED = -100
GIB = 2**30
WAYS = {"transformers": "transformers, all logits", "vidtune": "vidtune, in chunks"}


def main() -> None:
    options = parse_options()
    if options.child:
        print(json.dumps(measure(options, *options.child)))
        return
    describe(options)
    needed = 3 * 4 * options.tokens * options.vocab + 3 * 4 * options.hidden * options.vocab
    if available_memory() < needed:
        raise SystemExit(
            f"error: transformers' way needs about {needed / GIB:.0f} GiB, {available_memory() / GIB:.0f} are "
            "available; wait, or give fewer --tokens"
        )
    print("\n| supervised | way | extra memory GiB | of transformers' | CPU s | of transformers' |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for every, title in ((20, "one in twenty"), (1, "all")):
        found = {way: list(repeated(options, way, every)) for way in WAYS}
        check_equal(*(results[0] for results in found.values()))
        memory, seconds = (
            {way: median(result[key] for result in results) for way, results in found.items()}
            for key in ("memory", "seconds")
        )
        for way, name in WAYS.items():
            print(
                f"| {title} | {name} | {memory[way] / GIB:.2f} | {memory[way] / memory['transformers']:.3f} "
                f"| {seconds[way]:.1f} | {seconds[way] / seconds['transformers']:.2f} |"
            )
    print(f"\nratio {memory['vidtune'] / memory['transformers']:.3f}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=152064)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--hidden", type=int, default=896, help="default: of a language model with 0.5 B weights")
    parser.add_argument("--chunk-mib", type=int, default=CHUNK_BYTES // 2**20, help="logits of one chunk")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def repeated(options: argparse.Namespace, way: str, every: int) -> Iterator[dict[str, Any]]:
    """Results of one case, each from a fresh process."""
    command = [sys.executable, *sys.argv, "--child", way, str(every)]
    for _ in range(options.repeats):
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode:
            raise SystemExit(f"error: {way} failed (memory?): {child.stderr[-500:]}")
        yield json.loads(child.stdout)


def measure(options: argparse.Namespace, way: str, every: str) -> dict[str, Any]:
    """One forward and backward of the head and its loss, every ``every``-th position supervised."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    head = nn.Linear(options.hidden, options.vocab, bias=False)
    hidden = torch.randn(options.tokens, options.hidden, requires_grad=True)
    labels = torch.full((options.tokens,), IGNORED)
    # transformers shifts the labels by one; the first is never predicted.
    labels[1 :: int(every)] = torch.randint(options.vocab, (len(range(1, options.tokens, int(every))),))
    linear_once(head)

    before = memory("VmRSS")
    start = time.process_time()
    loss = full_loss(head, hidden, labels) if way == "transformers" else chunked_loss(head, hidden, labels, options)
    loss.backward()
    seconds = time.process_time() - start
    rise = memory("VmHWM") - before
    return {
        "memory": rise - head.weight.grad.nbytes,
        "seconds": seconds,
        "loss": loss.item(),
        "norms": [head.weight.grad.norm().item(), hidden.grad.norm().item()],
    }


def full_loss(head: nn.Linear, hidden: Tensor, labels: Tensor) -> Tensor:
    """Shape: hidden (L, D), labels (L,) -> scalar, the mean"""
    return ForCausalLMLoss(head(hidden[None]), labels[None], vocab_size=head.out_features)


def chunked_loss(head: nn.Linear, hidden: Tensor, labels: Tensor, options: argparse.Namespace) -> Tensor:
    """The same by ours, as `VideoLM.loss_sum` calls it."""
    targets = labels[1:]
    positions = (targets != IGNORED).nonzero().squeeze(1)
    total = head_loss_sum(head, hidden[positions], targets[positions], chunk_bytes=options.chunk_mib * 2**20)
    return total / len(positions)


def linear_once(head: nn.Linear) -> None:
    """Let the matrix library take its working memory before the count starts."""
    states = torch.randn(8, head.in_features, requires_grad=True)
    nn.functional.linear(states, head.weight[:64].detach()).sum().backward()


def memory(key: str) -> int:
    """Bytes, from the kernel's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


def available_memory() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def check_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    pairs = zip([one["loss"], *one["norms"]], [other["loss"], *other["norms"]], strict=True)
    if any(abs(a - b) > 1e-4 * abs(a) for a, b in pairs):
        raise SystemExit(f"error: the ways do not compute the same: {one}, {other}")


def describe(options: argparse.Namespace) -> None:
    cpu = next((x.split(": ")[1] for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), "?")
    print(f"command: python {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}")
    print(f"machine: {cpu}, {os.cpu_count()} cores, 1 thread used, float32")
    print(
        f"versions: Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )
    print(
        f"{options.tokens} tokens, vocabulary {options.vocab}, hidden {options.hidden}: the logits of all positions "
        f"are {4 * options.tokens * options.vocab / GIB:.2f} GiB; chunks of {options.chunk_mib} MiB; "
        f"{options.repeats} run(s) of each"
    )


if __name__ == "__main__":
    main()
