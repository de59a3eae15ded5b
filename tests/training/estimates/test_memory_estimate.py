"""The estimate of a rank's memory against tensors that were really alive."""

from functools import cache

import pytest
import torch
from tiny_stages import batch_of, composed, prepared, trained_parts

from vidtune.recipe.types import Stage
from vidtune.training.estimates.costs import StageCosts, _PeakMemory, stage_costs
from vidtune.training.estimates.memory import estimate_memory
from vidtune.training.forward import PackForward
from vidtune.training.setup.starting_model import checkpoint_activations

LENGTHS, ITEMS, SUPERVISED = [150, 100, 125], {"image": 2, "video": 3}, 40


def stage(**changes) -> Stage:
    required = {"name": "s", "train": {"*": 1e-3}, "data": [{"annotations": "a"}], "global_batch_size": 1}
    return Stage.model_validate({**required, "max_tokens_per_batch": sum(LENGTHS), **changes})


def config_of():
    return composed(hidden_size=128, intermediate_size=320, num_hidden_layers=4, vocab_size=1000)


@cache
def costs_of(wanted: tuple[str, ...], precision: str) -> StageCosts:
    return stage_costs(config_of(), trained_parts(config_of(), list(wanted)), precision)


def measured(trained, settings: Stage) -> int:
    """Bytes of all tensors that were alive at the same time in a step with its optimizer, weights included."""
    config = config_of()
    dtype = torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
    model = prepared(config, trained, dtype)
    if settings.gradient_checkpointing:
        checkpoint_activations(model)
    batch = batch_of(config, LENGTHS, ITEMS, SUPERVISED)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad])
    step = PackForward(model, settings.precision)
    step(batch).total.backward()
    optimizer.step()
    optimizer.zero_grad()
    held = sum(weight.nbytes for weight in model.parameters())
    held += sum(t.nbytes for state in optimizer.state.values() for t in state.values() if t.dim())
    with _PeakMemory([*model.parameters()]) as memory:
        step(batch).total.backward()
    return held + memory.peak


CHANGES = ({}, {"precision": "bfloat16"}, {"gradient_checkpointing": True})
WANTED = (["connectors"], ["connectors", "lora"], ["towers", "connectors", "language_model"])
GRID = [
    pytest.param(wanted, changes, marks=() if row == column else pytest.mark.whole)
    for row, changes in enumerate(CHANGES)
    for column, wanted in enumerate(WANTED)
]


@pytest.mark.parametrize(("wanted", "changes"), GRID)
def test_estimate_is_near_what_was_really_alive(wanted, changes):
    config, settings = config_of(), stage(**changes)
    trained = trained_parts(config, wanted)
    costs = costs_of(tuple(wanted), settings.precision)
    estimate = estimate_memory(config, settings, costs, world=1, items=ITEMS, supervised=SUPERVISED)
    assert 1.0 < estimate.total / measured(trained, settings) < 1.45


def test_sharding_divides_what_it_shards_and_copies_do_not():
    config = config_of()
    costs = costs_of(("connectors", "language_model"), "float32")

    def estimate(world: int, **changes):
        return estimate_memory(config, stage(**changes), costs, world=world, items=ITEMS, supervised=SUPERVISED)

    alone, copied, sharded = estimate(1), estimate(4), estimate(4, parallel="fsdp2")
    assert copied == alone
    assert sharded.optimizer == alone.optimizer / 4
    towers = sum(part.frozen for name, part in costs.weights.items() if name.startswith("towers."))
    assert 4 * towers < sharded.weights < alone.weights + 4 * 2 * max(costs.layers)
    assert sharded.activations == alone.activations


def test_few_bits_hold_the_frozen_linear_layers_alone():
    config = config_of()
    costs = costs_of(("connectors", "lora"), "bfloat16")
    full, few = (
        estimate_memory(
            config, stage(precision="bfloat16", **changes), costs, world=1, items=ITEMS, supervised=SUPERVISED
        ).weights
        for changes in ({}, {"quantize": "4bit"})
    )
    linear = 4 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 320)
    assert full - few == pytest.approx(linear * (2 - 0.56), rel=1e-6)
