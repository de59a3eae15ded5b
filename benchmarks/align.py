"""Clips per CPU second of a contrastive step: ours against a plain loop with CLIP of transformers.

Both train the same tower of frames and the same text tower, of the same random weights, on the same clips and captions,
which are in memory: forward, softmax loss over all clips of the step, backward, AdamW. Texts are as long as their
longest, and no frame is padded. Ours makes the step as `vidtune train` does, from packs to the gathered loss, with its
optimizer. The plain loop calls ``CLIPModel``'s towers, averages the frames of a clip and calls its loss, with torch's
AdamW as it comes; a second one has the fused AdamW that `vidtune train` has. Before anything is timed, the losses of
two steps, between which the weights change, must be equal. All take turns.

    python benchmarks/align.py
    python benchmarks/align.py --layers 12 --clips 4 --repeats 3

The last line, ``ratio <number>``, is ours over the plain loop.
"""

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from statistics import median

import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPConfig, CLIPModel

from vidtune.machine.ranks.place import ProcessPlace
from vidtune.models.text_alignment.contrast import Contrast, ContrastConfig, Pairs
from vidtune.models.towers.clip import ClipTower, ClipTowerConfig
from vidtune.planning.randomness import seed_torch
from vidtune.recipe.types import Stage
from vidtune.training.optimizers import build_optimizer
from vidtune.training.pair_step import NumberedBatch, PairStep
from vidtune.training.ranks.group import Ranks
from vidtune.training.ranks.parallel import ParallelForward
from vidtune.training.step import scale_gradients

RATE = 1e-5


def main() -> None:
    options = parse_options()
    torch.set_num_threads(1)
    seed_torch(0)
    clip = CLIPModel(clip_config(options)).train()
    tower, contrast = ours_like(clip, options)
    clips, texts = draw(options)
    steps = {
        "plain": plain_step(clip, clips, texts),
        "plain, fused AdamW": plain_step(deepcopy(clip), clips, texts, fused=True),
        "ours": our_step(tower, contrast, clips, texts),
    }
    losses = {name: [step(), step()] for name, step in steps.items()}
    if max(abs(a - b) for found in losses.values() for a, b in zip(found, losses["plain"], strict=True)) > 1e-4:
        raise SystemExit(f"the losses differ: {losses}")
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.repeats):
        for name, step in steps.items():
            started = time.process_time()
            step()
            seconds[name].append(time.process_time() - started)
    rates = {name: options.clips / median(found) for name, found in seconds.items()}
    print(f"{platform.machine()}, torch {torch.__version__}, transformers {transformers.__version__}, one thread")
    print(f"{options}")
    for name, rate in rates.items():
        spread = f"{min(seconds[name]):.3f} to {max(seconds[name]):.3f} s a step"
        print(f"{name:<18} {rate:7.2f} clips per CPU second, {spread}")
    print(f"over the plain loop with fused AdamW {rates['ours'] / rates['plain, fused AdamW']:.3f}")
    print(f"ratio {rates['ours'] / rates['plain']:.3f}")


def clip_config(options: argparse.Namespace) -> CLIPConfig:
    sizes = {"hidden_size": options.hidden, "intermediate_size": 4 * options.hidden}
    sizes |= {"num_hidden_layers": options.layers, "num_attention_heads": options.hidden // 32}
    text = {**sizes, "vocab_size": 1000, "max_position_embeddings": 77, "bos_token_id": 998, "eos_token_id": 999}
    vision = {**sizes, "image_size": options.side, "patch_size": options.patch}
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=options.hidden)


def ours_like(clip: CLIPModel, options: argparse.Namespace) -> tuple[ClipTower, Contrast]:
    """Our towers with the weights of a CLIP."""
    config = clip.config
    vision = config.vision_config
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
    sizes = {name: getattr(vision, name) for name in (*names, "hidden_act", "layer_norm_eps")}
    tower = ClipTowerConfig(**sizes, num_frames=options.frames).build().train()
    state = clip.state_dict()
    below = "vision_model."
    tower.load_state_dict({k.removeprefix(below): v for k, v in state.items() if k.startswith(below)}, strict=False)
    config.text_config.projection_dim = options.hidden
    contrast = ContrastConfig(text=config.text_config, projections={"video": options.hidden}).build().train()
    texts = {f"text_tower.{k}": v for k, v in state.items() if k.startswith(("text_model.", "text_projection."))}
    beside = {"projections.video.weight": state["visual_projection.weight"]}
    scale = {"temperature.logit_scale": state["logit_scale"].reshape(1)}
    contrast.load_state_dict({**texts, **beside, **scale}, strict=False)
    return tower, contrast


def draw(options: argparse.Namespace) -> tuple[Tensor, list[Tensor]]:
    """Clips (n, 3, T, S, S), and token ids of texts."""
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(options.clips, 3, options.frames, options.side, options.side, generator=generator)
    lengths = torch.randint(8, 24, (options.clips,), generator=generator).tolist()
    bodies = [torch.randint(3, 900, (length,), generator=generator).tolist() for length in lengths]
    return clips, [torch.tensor([998, *body, 999]) for body in bodies]


def plain_step(
    clip: CLIPModel, clips: Tensor, texts: Sequence[Tensor], fused: bool | None = None
) -> Callable[[], float]:
    optimizer = torch.optim.AdamW(clip.parameters(), lr=RATE, weight_decay=0.0, fused=fused)
    ids = nn.utils.rnn.pad_sequence(list(texts), batch_first=True, padding_value=999)

    def step() -> float:
        frames = clips.transpose(1, 2).flatten(0, 1)
        pooled = clip.vision_model(pixel_values=frames).pooler_output.unflatten(0, (len(clips), -1)).mean(1)
        media = normalize(clip.visual_projection(pooled), dim=-1)
        said = normalize(clip.text_projection(clip.text_model(input_ids=ids).pooler_output), dim=-1)
        logits, targets = clip.logit_scale.exp() * media @ said.t(), torch.arange(len(clips))
        loss = (cross_entropy(logits, targets) + cross_entropy(logits.t(), targets)) / 2
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


class _Pairs(nn.Module):
    """The pairs of clips in memory, as the forward pass of a pack gives them."""

    def __init__(self, tower: ClipTower, contrast: Contrast) -> None:
        super().__init__()
        self.tower, self.contrast = tower, contrast

    def forward(self, batch: tuple[Tensor, Sequence[Tensor]]) -> Pairs:
        clips, texts = batch
        media = normalize(self.contrast.projections["video"](self.tower.pooled(clips)).float(), dim=-1)
        kinds, (scale, bias) = torch.zeros(len(clips), dtype=torch.long), self.contrast.temperature()
        return Pairs(media, self.contrast.texts(texts), kinds, scale, bias, torch.zeros(()))


class _InPlace:
    """Nothing is copied."""

    def take(self, batch: tuple[Tensor, Sequence[Tensor]]) -> tuple[Tensor, Sequence[Tensor]]:
        return batch


def our_step(tower: ClipTower, contrast: Contrast, clips: Tensor, texts: Sequence[Tensor]) -> Callable[[], float]:
    ranks = Ranks(ProcessPlace(), torch.device("cpu"))
    forward = ParallelForward(_Pairs(tower, contrast), None, ranks)  # type: ignore[arg-type]
    pairs = PairStep(forward, "softmax", 0, ranks, _InPlace())  # type: ignore[arg-type]
    parameters = [parameter for parameter in forward.net.parameters() if parameter.requires_grad]
    group = {"params": parameters, "lr": RATE, "weight_decay": 0.0}
    optimizer = build_optimizer([group], Stage.model_construct(optimizer="adamw", betas=(0.9, 0.999)))

    def step() -> float:
        [(losses, number)] = pairs.backward(0, [NumberedBatch((clips, texts), 0)])  # type: ignore[arg-type]
        scale_gradients(parameters, 1 / number)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(losses.total) / number

    return step


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("clips", 8), ("frames", 8), ("side", 96), ("patch", 16), ("hidden", 256), ("layers", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
