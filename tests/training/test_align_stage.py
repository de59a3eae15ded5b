"""A stage that aligns media with words: packs, ranks and interruptions change nothing; what it cannot do is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from launched import Launcher, largest_difference, printed, weights
from training_world import conversation, mixed_samples

from vidtune.errors import UserError
from vidtune.processing.batch import Example, pack
from vidtune.recipe.types import Recipe
from vidtune.training.forward import PackForward
from vidtune.training.run import train_stages as train
from vidtune.training.setup.stage import StageSetup, set_up
from vidtune.training.step import fill_missing_gradients

TRAIN = {"towers": 1e-3, "connectors": 1e-2}


@pytest.fixture(scope="module")
def aligning(make_recipe) -> Callable[..., Recipe]:
    with_media = [sample for sample in mixed_samples() if "image" in sample or "video" in sample]

    def make(samples=with_media, **changes) -> Recipe:
        settings = {"objective": "align", "optimizer": "muon", "train": TRAIN, "max_steps": 3}
        return make_recipe(samples, **{**settings, **changes})

    return make


@pytest.fixture(scope="module")
def alone(aligning, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "out"
    train(aligning(), out, progress=False)
    return out


def gradients(setup: StageSetup, packs: list[list[Example]]) -> tuple[float, dict[str, torch.Tensor]]:
    net, total = PackForward(setup.model, "float32", setup.telling), 0.0
    net.zero_grad(set_to_none=True)
    for examples in packs:
        how = {name: stream.preprocessing for name, stream in setup.processor.streams.items()}
        arrays = [[how[slot.stream].load(slot.ref.path) for slot in example.media] for example in examples]
        loss = net(pack(examples, arrays)).total
        loss.backward()
        total += float(loss.detach())
    fill_missing_gradients([p for p in setup.model.parameters() if p.requires_grad])
    return total, {n: p.grad.clone() for n, p in setup.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("objective", ["align", "align_each", "align_sentences"])
def test_packed_equals_one_by_one(aligning, tmp_path: Path, objective: str) -> None:
    setup = set_up(aligning(objective=objective), 0, tmp_path)
    examples = [setup.example(index, 0) for index in (0, 5, 8)]  # a video, an image, both
    one_loss, one = gradients(setup, [[example] for example in examples])
    loss, packed = gradients(setup, [examples])
    assert loss == pytest.approx(one_loss, rel=1e-5)
    for name, gradient in one.items():
        torch.testing.assert_close(packed[name], gradient, atol=2e-5, rtol=1e-4, msg=name)
    reached = {".".join(name.split(".")[:2]) for name, gradient in one.items() if gradient.any()}
    assert reached == {"towers.video", "towers.image", "connectors.visual"}


def test_towers_and_connectors_learn_and_the_language_model_stays(aligning, alone: Path, tmp_path: Path) -> None:
    before = set_up(aligning(), 0, tmp_path).model.state_dict()
    after = {name.partition(": ")[2]: value for name, value in weights(alone / "align/final").items()}
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"towers", "connectors"}


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp2", marks=pytest.mark.whole)])
def test_two_ranks_equal_one_process(aligning, alone: Path, launcher: Launcher, tmp_path: Path, parallel: str) -> None:
    out = tmp_path / "out"
    assert launcher.run(aligning(parallel=parallel), out, 2) == [0, 0], printed(out)
    assert largest_difference(alone / "align/final", out / "align/final") < 2e-5


def test_stopped_and_resumed_is_bit_for_bit_never_stopped(aligning, alone: Path, launcher: Launcher, tmp_path) -> None:
    out = tmp_path / "out"
    assert launcher.run(aligning(), out, arguments={"stop_after": 1}, again=True) == [0], printed(out)
    assert largest_difference(alone / "align/final", out / "align/final") == 0


def test_the_loss_falls(aligning, tmp_path: Path) -> None:
    train(aligning(max_steps=40, warmup=0.0, global_batch_size=9, optimizer="adamw"), tmp_path / "out", progress=False)
    log = [json.loads(line) for line in (tmp_path / "out/align/log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses[-1] < losses[0] - 0.2


def test_the_language_model_cannot_be_trained_by_it(aligning, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"objective: align trains towers and connectors.*train\.language_model"):
        train(aligning(train={**TRAIN, "language_model": 1e-3}), tmp_path / "out", progress=False)


def test_a_sample_without_media_is_named(aligning, tmp_path: Path) -> None:
    samples = [*mixed_samples()[:2], conversation("Say hello.", "hello.")]
    with pytest.raises(UserError, match=r"sample train:2: objective: align needs media in every sample"):
        train(aligning(samples), tmp_path / "out", progress=False)
