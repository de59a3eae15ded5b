"""Packs on the device: moved and normalised, whatever the copy was begun for."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vidtune.data.sample import MediaRef
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing, VideoPreprocessing
from vidtune.processing.batch import Batch, Example, MediaSlot, pack
from vidtune.processing.processor import VideoLMProcessor
from vidtune.training.packs.transfer import Transfer, to_device
from vidtune.training.run import train_stages as train

PREPROCESSING = {
    "image": ImagePreprocessing(size=20, pixels="uint8"),
    "video": VideoPreprocessing(size=20, num_frames=2),
}
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))


def batch_of(*seeds: int) -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """A pack with an image and a clip per seed, and what the towers should get."""
    examples, arrays, images, clips = [], [], [], []
    for seed in seeds:
        random = np.random.default_rng(seed)
        image, clip = (random.integers(0, 256, shape, dtype=np.uint8) for shape in ((20, 30, 3), (2, 20, 30, 3)))
        slots = tuple(MediaSlot(MediaRef(stream, ""), 2) for stream in ("image", "video"))
        ids = np.arange(5) + seed
        examples.append(Example(str(seed), ids, ids, slots))
        arrays.append([PREPROCESSING["image"].apply(image).numpy(), PREPROCESSING["video"].apply(clip).numpy()])
        images.append(ImagePreprocessing(size=20).apply(image))
        clips.append(PREPROCESSING["video"].apply(clip))
    return pack(examples, arrays), torch.stack(images), torch.stack(clips)


def check(moved: Batch, batch: Batch, images: torch.Tensor, clips: torch.Tensor, device: str) -> None:
    assert {tensor.device.type for tensor in moved.tensors()} == {device}
    assert moved.input_ids.tolist() == batch.input_ids.tolist() and moved.ids == batch.ids
    values = [torch.stack([item.values for item in moved.media[stream]]) for stream in ("image", "video")]
    torch.testing.assert_close(values[0].cpu(), images, rtol=0, atol=1e-6 if device == "cuda" else 0)
    torch.testing.assert_close(values[1].cpu(), clips, rtol=0, atol=0)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_grey_levels_arrive_normalised_and_float_values_as_they_were(device: str) -> None:
    batch, images, clips = batch_of(0, 1)
    assert batch.media["image"][0].values.dtype == torch.uint8
    check(to_device(batch, torch.device(device), PREPROCESSING), batch, images, clips, device)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_every_pack_arrives_whether_its_copy_was_begun_or_another_one_was(device: str) -> None:
    transfer = Transfer(torch.device(device), PREPROCESSING)
    packs = [batch_of(seed, seed + 1) for seed in range(4)]
    check(transfer.take(packs[0][0]), *packs[0], device)
    transfer.begin(packs[1][0])
    check(transfer.take(packs[1][0]), *packs[1], device)
    transfer.begin(packs[2][0])  # left out in the end, as when another rank could not read its file
    check(transfer.take(packs[3][0]), *packs[3], device)
    transfer.begin(None)
    check(transfer.take(packs[2][0]), *packs[2], device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nothing_waits_for_the_device() -> None:
    device = torch.device("cuda")
    transfer = Transfer(device, PREPROCESSING)
    packs = [batch_of(seed) for seed in range(3)]
    transfer.take(packs[0][0])
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)  # about a second of work
    started = time.perf_counter()
    transfer.begin(packs[1][0])
    moved = transfer.take(packs[1][0])
    assert time.perf_counter() - started < 0.5
    check(moved, *packs[1], "cuda")


def test_training_on_grey_levels_is_training_but_for_their_rounding(make_recipe, tmp_path: Path) -> None:
    finals = []
    for pixels in ("float32", "uint8"):
        settings = {stream: {"pixels": pixels} for stream in PREPROCESSING}
        recipe = make_recipe(media=settings, max_steps=2, order="sequential")  # clips, then images
        finals.append(train(recipe, tmp_path / pixels, progress=False))
    weights = [load_file(final / "model.safetensors") for final in finals]
    logs = [(tmp_path / pixels / "align/log.jsonl").read_text().splitlines() for pixels in ("float32", "uint8")]
    first, second = ([json.loads(line)["loss"] for line in lines] for lines in logs)
    assert first != second and first == pytest.approx(second, abs=1e-3)
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=0, atol=5e-3, msg=name)
    kept = VideoLMProcessor.from_pretrained(finals[1])
    assert {settings.pixels for settings in kept.preprocessing.values()} == {"uint8"}
