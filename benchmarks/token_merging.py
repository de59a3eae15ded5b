"""Clips merged per second: the token merging connector against a loop over clips that takes the same decisions.

    python benchmarks/token_merging.py [--clips 128] [--tokens 784] [--width 1024] [--heads 16] [--target 64]
        [--threads 1] [--rounds 3]

The loop is the algorithm as it is written down: in every round it gathers, adds and averages whole features of a clip.
Features are random, sizes the published ones: clips of 4 frames of 196 features. Both are measured in float32, in
turn, in CPU seconds (of all threads together); the fastest round counts. The script stops where a feature of any clip
goes into another token, or values differ. An eighth of the clips is measured forward and backward too.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from vidtune.models.connectors.merging import destinations, merge, schedule

AGREEMENT = 1e-4


def one_clip(tokens: Tensor, target: int, heads: int) -> tuple[Tensor, Tensor]:
    """Merged tokens of a clip, and where every token went. Shape: (1, N, C) -> (1, target, C), (N,)"""
    places, sizes = torch.arange(tokens.shape[1]), torch.ones_like(tokens[..., :1])
    for number in schedule(tokens.shape[1], target):
        _, length, width = tokens.shape
        compared = tokens.reshape(1, length, heads, width // heads).mean(2)
        compared = compared / compared.norm(dim=-1, keepdim=True)
        similar, partners = (compared[:, ::2] @ compared[:, 1::2].transpose(1, 2)).max(-1)
        order = similar.argsort(dim=-1, descending=True, stable=True)[..., None]
        alone, merging = order[:, number:], order[:, :number]
        into = partners[..., None].gather(1, merging)

        def merged(values: Tensor, alone: Tensor = alone, merging: Tensor = merging, into: Tensor = into) -> Tensor:
            even, odd, size = values[:, ::2], values[:, 1::2], values.shape[-1]
            moved = even.gather(1, merging.expand(1, merging.shape[1], size))
            odd = odd.scatter_reduce(1, into.expand(1, into.shape[1], size), moved, reduce="sum")
            return torch.cat([even.gather(1, alone.expand(1, alone.shape[1], size)), odd], dim=1)

        kept = alone.shape[1]
        moves = torch.empty(length, dtype=torch.int64)
        moves[2 * alone[0, :, 0]], moves[2 * merging[0, :, 0]] = torch.arange(kept), kept + into[0, :, 0]
        moves[1::2] = kept + torch.arange(length // 2)
        places = moves[places]
        tokens, sizes = merged(tokens * sizes), merged(sizes)
        tokens = tokens / sizes
    return tokens, places


def looped(clips: Tensor, target: int, heads: int) -> Tensor:
    """Shape: (B, N, C) -> (B, target, C)"""
    return torch.cat([one_clip(clip[None], target, heads)[0] for clip in clips])


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of a call, of all threads together."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def fastest(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float]:
    """CPU seconds of the fastest of several rounds in turn."""
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    return min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (
        ("clips", 128), ("tokens", 784), ("width", 1024), ("heads", 16), ("target", 64), ("threads", 1), ("rounds", 3),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    clips = torch.randn(asked.clips, asked.tokens, asked.width)
    with torch.no_grad():
        compare(clips, asked.target, asked.heads)
        mine, theirs = fastest(
            lambda: merge([clips], asked.target, asked.heads),
            lambda: looped(clips, asked.target, asked.heads),
            asked.rounds,
        )
    line = f"{asked.clips} clips of {asked.tokens} x {asked.width}"
    print(f"{line}: merged {mine:.2f} s, looped {theirs:.2f} s of CPU; ratio {theirs / mine:.2f}", flush=True)
    some = clips[: max(1, asked.clips // 8)].requires_grad_()
    trained, their_trained = fastest(
        lambda: merge([some], asked.target, asked.heads).sum().backward(),
        lambda: looped(some, asked.target, asked.heads).sum().backward(),
        1,
    )
    print(f"forward and backward of {len(some)}: {trained:.2f} s, {their_trained:.2f} s; {their_trained / trained:.2f}")
    print(f"ratio {theirs / mine:.2f}")


def compare(clips: Tensor, target: int, heads: int) -> None:
    """Stop where a token of any clip goes elsewhere, or values differ."""
    same, difference = 0, 0.0
    for clip in clips.split(1):
        wanted, places = one_clip(clip, target, heads)
        found = destinations(clip, target, heads, clip.dtype)[0]
        same += torch.equal(found, places)
        difference = max(difference, float((merge([clip], target, heads) - wanted).abs().max()))
    print(f"same indices in {same} of {len(clips)} clips; largest difference {difference:.1e}", flush=True)
    together = merge([clips], target, heads)
    alone = torch.cat([merge([clip], target, heads) for clip in clips.split(1)])
    if same < len(clips) or difference > AGREEMENT or not torch.equal(together, alone):
        raise SystemExit("the loop takes other decisions")


if __name__ == "__main__":
    main()
