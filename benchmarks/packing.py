"""Training tokens per CPU second: packed examples against padded batches of transformers.

Both train the same small Llama on the same samples, a mixture of videos, images and text; random ids stand for the
visual tokens, whose labels are masked. A step is forward, backward and AdamW over the same samples; only real tokens
count. Before anything is timed, loss and every gradient of one step must be equal in all ways.

- packed: ours, examples joined up to ``--max-tokens``, attention inside each example, logits where labels are;
- padded: batches of ``--padded-batch`` samples in the order of the data, attention mask, transformers' own loss;
- padded, grouped: the same with the samples of a step sorted by length, which spares padding but fixes what is batched.

    python benchmarks/packing.py
    python benchmarks/packing.py --hidden 64 --layers 1 --samples 8 --padded-batch 4 --video-tokens 300 --repeats 1

The last line, ``ratio <number>``, is the gain over padded batches in the order of the data.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import median

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from vidtune.models.language_model.attention import PACKED_ATTENTION, register_attention
from vidtune.models.language_model.loss import head_loss_sum

IGNORED = -100
SHARES = {"video": 0.13, "image": 0.82, "text": 0.05}
"""Share of each kind among the samples of a published fine-tuning mixture of 765 thousand."""


@dataclass(frozen=True)
class Sample:
    """Token ids and labels of one example, (L,) each; the model shifts the labels."""

    ids: Tensor
    labels: Tensor


def main() -> None:
    options = parse_options()
    torch.set_num_threads(1)
    register_attention()
    samples = draw_samples(options)
    describe(options, samples)
    lengths = [len(sample.ids) for sample in samples]
    count = sum(int((sample.labels != IGNORED).sum()) for sample in samples)
    by_length = sorted(range(len(samples)), key=lengths.__getitem__)
    ways: dict[str, tuple[str, Callable[..., Tensor], list[list[int]]]] = {
        "padded, transformers": ("sdpa", padded_loss, in_batches(range(len(samples)), options.padded_batch)),
        "padded, transformers, grouped": ("sdpa", padded_loss, in_batches(by_length, options.padded_batch)),
        "packed, vidtune": (PACKED_ATTENTION, packed_loss, in_packs(lengths, options.max_tokens)),
    }
    steps = {
        name: TrainingStep(build(options, attention), loss, [[samples[i] for i in batch] for batch in batches], count)
        for name, (attention, loss, batches) in ways.items()
    }
    check_equal(steps)
    seconds = timed(steps, options.repeats)
    tokens = sum(lengths)
    print("\n| way | batches | tokens computed | CPU s per step | tokens per CPU s | against padded |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    base = seconds["padded, transformers"]
    for name, value in seconds.items():
        batches = ways[name][2]
        packed = name.startswith("packed")
        computed = tokens if packed else sum(len(b) * max(lengths[i] for i in b) for b in batches)
        print(f"| {name} | {len(batches)} | {computed} | {value:.1f} | {tokens / value:.0f} | {base / value:.2f} |")
    packed = seconds["packed, vidtune"]
    print(f"\nagainst padded, grouped: {seconds['padded, transformers, grouped'] / packed:.2f}")
    print(f"ratio {base / packed:.2f}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--max-tokens", type=int, default=8192, help="of a pack")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--mlp", type=int, default=688)
    parser.add_argument("--vocab", type=int, default=2048, help="default: the head is a quarter of all weights")
    parser.add_argument("--repeats", type=int, default=3, help="the median counts")
    return parser.parse_args()


def add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=32, help="of an optimizer step")
    parser.add_argument("--padded-batch", type=int, default=16, help="samples of a padded batch")
    parser.add_argument("--video-tokens", type=int, default=2056, help="visual tokens of a video")
    parser.add_argument("--image-tokens", type=int, default=256, help="visual tokens of an image")
    parser.add_argument("--seed", type=int, default=0)


def draw_samples(options: argparse.Namespace) -> list[Sample]:
    """A step's samples in random order, each kind in its share, with 40 to 400 tokens of text (50 to 600 alone), of
    which an answer of 0.3 to 0.7 is supervised.
    """
    rng = np.random.default_rng(options.seed)
    visual = {"video": options.video_tokens, "image": options.image_tokens, "text": 0}
    counts = {kind: max(1, round(share * options.samples)) for kind, share in SHARES.items()}
    counts["image"] += options.samples - sum(counts.values())
    samples = []
    for kind in rng.permutation([kind for kind, number in counts.items() for _ in range(number)]):
        text = int(rng.integers(50, 601) if kind == "text" else rng.integers(40, 401))
        ids = torch.from_numpy(rng.integers(1, options.vocab, visual[kind] + text))
        labels = ids.clone()
        labels[: len(ids) - int(text * rng.uniform(0.3, 0.7))] = IGNORED
        samples.append(Sample(ids, labels))
    return samples


def in_batches(order: Sequence[int], size: int) -> list[list[int]]:
    return [list(order[begin : begin + size]) for begin in range(0, len(order), size)]


def in_packs(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Sample numbers by pack: longest first, each into the fullest pack that has room."""
    packs: list[list[int]] = []
    filled: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        room = [p for p, tokens in enumerate(filled) if tokens + lengths[index] <= max_tokens]
        if not room:
            packs.append([])
            filled.append(0)
            room = [len(packs) - 1]
        best = max(room, key=filled.__getitem__)
        packs[best].append(index)
        filled[best] += lengths[index]
    return packs


def padded_loss(model: LlamaForCausalLM, batch: list[Sample], count: int) -> Tensor:
    """transformers' own way. Shape: scalar, the batch's share of the step's mean loss"""
    ids = torch.nn.utils.rnn.pad_sequence([sample.ids for sample in batch], batch_first=True)
    labels = torch.nn.utils.rnn.pad_sequence([s.labels for s in batch], batch_first=True, padding_value=IGNORED)
    lengths = torch.tensor([len(sample.ids) for sample in batch], device=ids.device)
    mask = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()
    return model(input_ids=ids, attention_mask=mask, labels=labels, num_items_in_batch=count, use_cache=False).loss


def packed_loss(model: LlamaForCausalLM, batch: list[Sample], count: int) -> Tensor:
    """Ours, as `VideoLM.loss_sum` does it. Shape: scalar, the batch's share of the step's mean loss"""
    device = batch[0].ids.device
    targets = torch.cat([sample.labels for sample in batch])[1:]
    positions = (targets != IGNORED).nonzero().squeeze(1)
    hidden = model.get_decoder()(
        input_ids=torch.cat([sample.ids for sample in batch])[None],
        position_ids=torch.cat([torch.arange(len(sample.ids), device=device) for sample in batch])[None],
        cu_seqlens=[0, *accumulate(len(sample.ids) for sample in batch)],
        use_cache=False,
    ).last_hidden_state[0]
    return head_loss_sum(model.get_output_embeddings(), hidden[positions], targets[positions]) / count


class TrainingStep:
    """One way of training: a model of its own, the step's batches, an optimizer.

    Args:
        loss: (model, batch, count) -> the batch's share of the mean loss.
        count: supervised tokens of the step.
    """

    def __init__(
        self, model: LlamaForCausalLM, loss: Callable[..., Tensor], batches: list[list[Sample]], count: int
    ) -> None:
        self.model, self.loss, self.batches, self.count = model, loss, batches, count
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5)

    def gradients(self) -> float:
        """Accumulate the gradients of all batches; the mean loss."""
        total = 0.0
        for batch in self.batches:
            loss = self.loss(self.model, batch, self.count)
            loss.backward()
            total += loss.item()
        return total

    def run(self) -> float:
        """The whole step; the mean loss before it."""
        loss = self.gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss


def build(options: argparse.Namespace, attention: str) -> LlamaForCausalLM:
    torch.manual_seed(options.seed)
    config = LlamaConfig(
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        intermediate_size=options.mlp,
        vocab_size=options.vocab,
        attn_implementation=attention,
    )
    return LlamaForCausalLM(config).train()


def check_equal(steps: dict[str, TrainingStep]) -> None:
    """Stop unless all ways have the same loss and gradients."""
    losses = {name: step.gradients() for name, step in steps.items()}
    first, *others = steps.values()
    expected = dict(first.model.named_parameters())
    worst = 0.0
    for step in others:
        for name, parameter in step.model.named_parameters():
            difference = (parameter.grad - expected[name].grad).norm() / expected[name].grad.norm()
            worst = max(worst, difference.item())
    spread = max(losses.values()) - min(losses.values())
    print(f"loss {next(iter(losses.values())):.6f}, largest difference {spread:.1e}; gradients, relative: {worst:.1e}")
    if spread > 1e-4 or worst > 1e-3:
        raise SystemExit(f"error: the ways do not compute the same: {losses}")
    for step in steps.values():
        step.optimizer.zero_grad()


def timed(steps: dict[str, TrainingStep], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each; the ways take turns, so that a busy machine disturbs all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            start = time.process_time()
            step.run()
            seconds[name].append(time.process_time() - start)
    return {name: median(values) for name, values in seconds.items()}


def describe(options: argparse.Namespace, samples: list[Sample]) -> None:
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file():
        cpu = next((line.split(": ")[1] for line in info.read_text().splitlines() if "model name" in line), cpu)
    print(f"command: python {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}")
    print(f"machine: {cpu}, {os.cpu_count()} cores, 1 thread used, float32")
    print(
        f"versions: Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )
    print(
        f"model: Llama, hidden {options.hidden}, {options.layers} layers, {options.heads} heads, MLP {options.mlp}, "
        f"vocabulary {options.vocab}; seed {options.seed}; median of {options.repeats}"
    )
    describe_samples(options, samples)


def describe_samples(options: argparse.Namespace, samples: list[Sample]) -> None:
    lengths = [len(sample.ids) for sample in samples]
    supervised = sum(int((sample.labels != IGNORED).sum()) for sample in samples)
    print(
        f"a step: {len(samples)} samples of {min(lengths)} to {max(lengths)} tokens (median {median(lengths):.0f}), "
        f"{sum(lengths)} tokens, {supervised} of them supervised; padded batches of {options.padded_batch}, "
        f"packs of at most {options.max_tokens} tokens"
    )


if __name__ == "__main__":
    main()
