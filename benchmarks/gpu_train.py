"""One training step of a 7B-shaped language model on a GPU: packed, beside padded batches of transformers.

Random weights are made on the device, as many layers as fit. Samples and both ways are those of ``packing.py``; here
they run in bfloat16 autocast with gradient checkpointing, and two kinds of training:

- lora: bfloat16 base, frozen; adapters of rank ``--rank`` on every linear layer of the decoder;
- full: float32 weights and AdamW states.

Model FLOPs utilisation (MFU) counts the useful operations of real tokens in both ways: weights twice per token and
pass, causal attention inside each example, the head where labels are; no recomputation.

    python benchmarks/gpu_train.py
    python benchmarks/gpu_train.py --tiny          # seconds, on a CPU too

The last line, ``ratio <number>``, is the gain in tokens/s of the last kind over padded batches.
"""

import argparse
import gc
import os
import platform
import sys
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from packing import (
    IGNORED,
    Sample,
    TrainingStep,
    add_data_options,
    describe_samples,
    draw_samples,
    in_batches,
    in_packs,
    packed_loss,
    padded_loss,
)
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils import is_flash_attn_2_available

from vidtune.models.language_model.attention import PACKED_ATTENTION, packed_kernel, register_attention
from vidtune.models.language_model.loss import has_liger

GIB = 2**30
BYTES_PER_WEIGHT = {"lora": 2.2, "full": 16}
"""Weights, gradients and optimizer states."""
PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "RTX 4090": 165}
"""Dense bfloat16, as published by the vendor."""


def main() -> None:
    options = parse_options()
    register_attention()
    device = torch.device(options.device)
    samples = [Sample(s.ids.to(device), s.labels.to(device)) for s in draw_samples(options)]
    peak = options.peak_tflops or peak_tflops(device)
    describe(options, device, samples)
    ratio = 0.0
    for kind in options.kinds:
        config = model_config(options, kind, device)
        flops = useful_flops(config, samples, trains_all=kind == "full")
        tokens = sum(len(sample.ids) for sample in samples)
        print(f"\n{kind}: {config.num_hidden_layers} layers, {flops / 1e12:.1f} TFLOP per step")
        print("\n| way | first loss | seconds per step | tokens/s | MFU | peak GiB | against padded |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        found = {}
        for way in ("padded, transformers", "packed, vidtune"):
            found[way] = measure(options, config, kind, way, samples, device)
            if found[way] is None:
                print(f"| {way} | out of memory | | | | | |")
                continue
            loss, seconds, memory = found[way]
            mfu = f"{flops / seconds / peak / 1e12:.3f}" if peak else "-"
            base = found["padded, transformers"]
            gain = f"{base[1] / seconds:.2f}" if base else "-"
            print(
                f"| {way} | {loss:.4f} | {seconds:.3f} | {tokens / seconds:.0f} | {mfu} | {memory / GIB:.2f} | {gain} |"
            )
        if all(found.values()):
            ratio = found["padded, transformers"][1] / found["packed, vidtune"][1]
    print(f"\nratio {ratio:.2f}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument("--max-tokens", type=int, default=16384, help="of a pack")
    parser.add_argument("--kinds", nargs="+", choices=["lora", "full"], default=["lora", "full"])
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--layers", type=int, help="default: 32, or as many as fit")
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--key-value-heads", type=int, help="default: as many as heads")
    parser.add_argument("--mlp", type=int, default=11008)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--attention", help="of transformers; default: flash_attention_2 where installed, else sdpa")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peak-tflops", type=float, help="of the device, where it is not known")
    parser.add_argument("--repeats", type=int, default=5, help="the median counts; one more warms up")
    parser.add_argument("--tiny", action="store_true", help="a model and samples for seconds on a CPU")
    parser.set_defaults(samples=16)
    options = parser.parse_args()
    if options.tiny:
        tiny = {"hidden": 64, "layers": 2, "heads": 4, "mlp": 128, "vocab": 512, "rank": 4, "samples": 8, "repeats": 1}
        for name, value in {**tiny, "padded_batch": 4, "video_tokens": 300, "image_tokens": 50}.items():
            setattr(options, name, value)
    return options


def model_config(options: argparse.Namespace, kind: str, device: torch.device) -> LlamaConfig:
    """The model's shape, with the layers that fit into seven tenths of the free memory."""
    config = LlamaConfig(
        hidden_size=options.hidden,
        num_hidden_layers=options.layers or 32,
        num_attention_heads=options.heads,
        num_key_value_heads=options.key_value_heads,
        intermediate_size=options.mlp,
        vocab_size=options.vocab,
    )
    if options.layers is None and device.type == "cuda":
        layer, outside = weights(config)
        room = 0.7 * torch.cuda.mem_get_info(device)[0] / BYTES_PER_WEIGHT[kind]
        config.num_hidden_layers = max(1, min(32, int((room - 2 * outside) / layer)))
    return config


def weights(config: LlamaConfig) -> tuple[int, int]:
    """Weights in the matrices of a layer, and in the head."""
    width = config.hidden_size
    key_value = width * config.num_key_value_heads // config.num_attention_heads
    layer = 2 * width * width + 2 * width * key_value + 3 * width * config.intermediate_size
    return layer, width * config.vocab_size


def useful_flops(config: LlamaConfig, samples: list[Sample], trains_all: bool) -> float:
    """Operations of forward and backward over the real tokens; a frozen weight has no gradient of its own."""
    layer, head = weights(config)
    tokens = sum(len(sample.ids) for sample in samples)
    squares = sum(len(sample.ids) ** 2 for sample in samples)
    supervised = sum(int((sample.labels != IGNORED).sum()) for sample in samples)
    passes = 3 if trains_all else 2
    matrices = 2 * passes * (layer * config.num_hidden_layers * tokens + head * supervised)
    return matrices + 3 * 2 * squares * config.hidden_size * config.num_hidden_layers


def measure(
    options: argparse.Namespace, config: LlamaConfig, kind: str, way: str, samples: list[Sample], device: torch.device
) -> tuple[float, float, int] | None:
    """Loss of the first step, median seconds of a step and peak bytes of the device; None when memory runs out."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        step = training_step(options, config, kind, way, samples, device)
        loss = step.run()
        seconds = [timed(step, device) for _ in range(options.repeats)]
    except torch.OutOfMemoryError:
        return None
    return loss, median(seconds), torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def training_step(
    options: argparse.Namespace, config: LlamaConfig, kind: str, way: str, samples: list[Sample], device: torch.device
) -> TrainingStep:
    packed = way.startswith("packed")
    plain = options.attention or ("flash_attention_2" if is_flash_attn_2_available() else "sdpa")
    torch.manual_seed(options.seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            config,
            attn_implementation=PACKED_ATTENTION if packed else plain,
            dtype=torch.bfloat16 if kind == "lora" else torch.float32,
        )
    model.train()
    if kind == "lora":
        model.requires_grad_(False)
        targets = r".*layers.*_proj"
        inject_adapter_in_model(LoraConfig(r=options.rank, lora_alpha=options.rank, target_modules=targets), model)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    way_loss = packed_loss if packed else padded_loss

    def loss(model: LlamaForCausalLM, batch: list[Sample], count: int) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return way_loss(model, batch, count)

    lengths = [len(sample.ids) for sample in samples]
    groups = in_packs(lengths, options.max_tokens) if packed else in_batches(range(len(samples)), options.padded_batch)
    count = sum(int((sample.labels != IGNORED).sum()) for sample in samples)
    return TrainingStep(model, loss, [[samples[i] for i in group] for group in groups], count)


def timed(step: TrainingStep, device: torch.device) -> float:
    start = time.perf_counter()
    step.run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def peak_tflops(device: torch.device) -> float | None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peak for key, peak in PEAK_TFLOPS.items() if key in name), None)


def describe(options: argparse.Namespace, device: torch.device, samples: list[Sample]) -> None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    kernel = packed_kernel(device, torch.bfloat16, options.hidden // options.heads)
    liger = device.type == "cuda" and has_liger()
    print(f"command: python {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}")
    print(
        f"machine: {name}; versions: Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}; packed attention: {kernel}; loss: {'Liger' if liger else 'chunks'}"
    )
    print(
        f"model: Llama, hidden {options.hidden}, {options.heads} heads, MLP {options.mlp}, vocabulary {options.vocab}; "
        f"adapters of rank {options.rank}; seed {options.seed}; median of {options.repeats}"
    )
    describe_samples(options, samples)


if __name__ == "__main__":
    main()
