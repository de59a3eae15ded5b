"""The step: what is minimised does not depend on how samples are packed."""

import pytest
import torch

from vidtune.planning.randomness import random_seed
from vidtune.processing.batch import Batch, Example, pack
from vidtune.training.forward import PackForward
from vidtune.training.setup.stage import StageSetup, set_up
from vidtune.training.step import clipping_factor, fill_missing_gradients, gradient_norms, scale_gradients

TRAINED = {"connectors.visual": 1e-3, "language_model": 1e-3, "towers.video": 1e-3}


@pytest.fixture
def setup(make_recipe, tmp_path) -> StageSetup:
    return set_up(make_recipe(train=TRAINED), 0, tmp_path)


def make_batch(setup: StageSetup, examples: list[Example]) -> Batch:
    streams = setup.processor.streams
    arrays = [[streams[slot.stream].preprocessing.load(slot.ref.path) for slot in e.media] for e in examples]
    return pack(examples, arrays)


def gradients(setup: StageSetup, packs: list[list[Example]]) -> tuple[float, dict[str, torch.Tensor]]:
    net = PackForward(setup.model, "float32")
    net.zero_grad(set_to_none=True)
    total, count = 0.0, 0
    for examples in packs:
        batch = make_batch(setup, examples)
        loss = net(batch).total
        loss.backward()
        total, count = total + float(loss.detach()), count + batch.num_supervised
    parameters = [p for p in setup.model.parameters() if p.requires_grad]
    fill_missing_gradients(parameters)
    scale_gradients(parameters, 1 / count)
    return total / count, {n: p.grad.clone() for n, p in setup.model.named_parameters() if p.requires_grad}


def test_packed_equals_one_by_one_in_loss_and_every_gradient(setup: StageSetup) -> None:
    examples = [setup.example(index, 0) for index in (0, 5, 8, 9)]
    one_loss, one = gradients(setup, [[example] for example in examples])
    for packs in ([examples], [examples[:1], examples[1:]], [[examples[2], examples[0]], [examples[3], examples[1]]]):
        loss, packed = gradients(setup, packs)
        assert loss == pytest.approx(one_loss, abs=1e-6)
        for name, gradient in one.items():
            torch.testing.assert_close(packed[name], gradient, atol=2e-6, rtol=1e-4, msg=name)
    assert all(float(gradient.abs().max()) > 0 for name, gradient in one.items() if name.startswith("connectors"))


def test_norms_and_clipping_equal_torch(setup: StageSetup) -> None:
    _, expected = gradients(setup, [[setup.example(0, 0)]])
    parts = {name: [p for p in part.parameters() if p.requires_grad] for name, part in setup.model.components().items()}
    parts = {name: part for name, part in parts.items() if part}
    norms = gradient_norms(parts)
    for name, norm in zip(parts, norms.tolist(), strict=True):
        own = [g for key, g in expected.items() if key.startswith(name + ".")]
        assert norm == pytest.approx(float(torch.cat([g.flatten() for g in own]).norm()), rel=1e-5)
    every = [p for part in parts.values() for p in part]
    scale_gradients(every, clipping_factor(norms.norm(), 0.01))
    ours = [p.grad.clone() for p in every]
    for parameter, key in zip(every, [k for n in parts for k in expected if k.startswith(n + ".")], strict=True):
        parameter.grad = expected[key].clone()
    torch.nn.utils.clip_grad_norm_(every, 0.01)
    for mine, parameter in zip(ours, every, strict=True):
        torch.testing.assert_close(mine, parameter.grad)


def test_gradients_within_the_limit_are_not_touched() -> None:
    assert float(clipping_factor(torch.tensor(0.5), 1.0)) == 1.0
    assert float(clipping_factor(torch.tensor(50.0), None)) == 1.0


def test_seeds_differ_by_every_part_of_the_key() -> None:
    keys = [(a, b, c) for a in range(4) for b in range(4) for c in range(4)]
    assert len({random_seed(*key) for key in keys}) == len(keys)


def test_bfloat16_runs_and_stays_close(setup: StageSetup) -> None:
    batch = make_batch(setup, [setup.example(0, 0), setup.example(9, 0)])
    with torch.no_grad():
        exact = float(PackForward(setup.model, "float32")(batch).total)
        rounded = float(PackForward(setup.model, "bfloat16")(batch).total)
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.02)
