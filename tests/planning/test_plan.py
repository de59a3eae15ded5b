"""The plan: the same everywhere, every sample as often as it should, packs within the limit and of like cost."""

import heapq
import json
from itertools import chain
from typing import Any

import numpy as np
import pytest

from vidtune.planning.lengths import LengthTable
from vidtune.planning.order import epoch_order
from vidtune.planning.packing import CostModel, pack_epoch
from vidtune.planning.plan import PlannedSource, StagePlan, explain_difference, share
from vidtune.recipe.types import Stage

LIMIT = 8192
COST = CostModel(squared=2e-5, items={"video": 500.0, "image": 60.0})


def mixture(count: int, seed: int = 0) -> LengthTable:
    """Videos, images and text alone, as published data have them."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, count, p=[0.4, 0.4, 0.2])
    text = np.minimum(rng.lognormal(4.6, 0.7, count).astype(np.int32) + 40, 2000)
    media = np.choose(kind, [2056, 576, 0]).astype(np.int32)
    items = {"video": (kind == 0).astype(np.int32), "image": (kind == 1).astype(np.int32)}
    return LengthTable(media + text, text // 2, media, items)


def make_plan(
    lengths: LengthTable, weights: tuple[float, ...] = (1.0,), seed: int = 1, data: str = "data", **changes: Any
) -> StagePlan:
    """A plan over sources of equal size."""
    settings = {"global_batch_size": 64, "max_tokens_per_batch": LIMIT, **changes}
    stage = Stage.model_validate(
        {"name": "s", "train": {"connectors": 1.0}, "data": [{"annotations": "x"}], **settings}
    )
    shares = np.array_split(np.arange(len(lengths)), len(weights))
    sources = [
        PlannedSource(f"{number}.json", f"hash{number}", len(part), weight)
        for number, (part, weight) in enumerate(zip(shares, weights, strict=True))
    ]
    words = np.where(lengths.media_tokens > 0, 1, -1) * np.maximum(lengths.tokens - lengths.media_tokens, 1)
    return StagePlan(stage, sources, lengths, words, data, seed, COST)


def samples_of(plan: StagePlan, steps: range) -> list[list[int]]:
    return [np.concatenate(plan.packs(step)).tolist() for step in steps]


@pytest.mark.parametrize("rule", ["shuffled", "modality_grouped", "sequential"])
def test_every_sample_comes_once_per_epoch_in_the_step_its_order_says(rule: str) -> None:
    lengths = mixture(1000)
    plan = make_plan(lengths, order=rule, epochs=2)
    assert (plan.steps_per_epoch, plan.total_steps, plan.epoch(16)) == (16, 32, 1)
    for epoch in range(2):
        steps = range(16 * epoch, 16 * (epoch + 1))
        found = samples_of(plan, steps)
        assert [len(step) for step in found] == [64] * 15 + [40]
        assert sorted(chain(*found)) == list(range(1000))
        order = epoch_order(
            rule, plan._word_lengths, fingerprint="data", seed=1, epoch=epoch, global_batch_size=64  # type: ignore[arg-type]
        )  # fmt: skip
        assert [set(step) for step in found] == [set(order[k : k + 64].tolist()) for k in range(0, 1000, 64)]
    assert [plan.samples_until(step) for step in (0, 1, 15, 16, 17)] == [0, 64, 960, 1000, 1064]


def test_a_plan_does_not_depend_on_what_was_asked_before() -> None:
    straight, other = make_plan(mixture(700), epochs=4), make_plan(mixture(700), epochs=4)
    expected = [[pack.tolist() for pack in straight.packs(step)] for step in range(straight.total_steps)]
    np.random.default_rng().random(3)
    for step in (40, 3, 17, 25, 2, 43):
        assert [pack.tolist() for pack in other.packs(step)] == expected[step]
    assert expected[:11] != expected[11:22]


def test_packing_all_steps_at_once_equals_packing_each_alone() -> None:
    lengths = mixture(64 * 9 + 17)
    order = np.random.default_rng(3).permutation(len(lengths))
    at_once = pack_epoch(order, lengths, COST, 64, LIMIT)
    for number in range(10):
        alone = pack_epoch(order[64 * number : 64 * (number + 1)], lengths, COST, 64, LIMIT)
        assert [p.tolist() for p in at_once.step(number)] == [p.tolist() for p in alone.step(0)]
    some = at_once.until(4)
    assert [p.tolist() for p in some.step(3)] == [p.tolist() for p in at_once.step(3)]
    assert len(some.samples) == 4 * 64


def packs_by_length(lengths: list[int], limit: int) -> int:
    """How many packs it takes, longest sample first, each into the pack that is least full."""
    for count in range(-(-sum(lengths) // limit), len(lengths) + 1):
        filled = [0] * count
        for length in sorted(lengths, reverse=True):
            heapq.heapreplace(filled, filled[0] + length)
        if max(filled) <= limit:
            return count
    raise AssertionError


@pytest.mark.parametrize("limit", [3072, LIMIT, 32768])
def test_packs_stay_within_the_limit_and_are_as_few_as_needed(limit: int) -> None:
    lengths = mixture(3000)
    plan = make_plan(lengths, global_batch_size=128, max_tokens_per_batch=limit)
    for step in range(plan.total_steps):
        packs = plan.packs(step)
        tokens = [int(lengths.tokens[pack].sum()) for pack in packs]
        assert all(len(pack) for pack in packs)
        assert max(tokens) <= limit
        assert len(packs) <= packs_by_length(lengths.tokens[np.concatenate(packs)].tolist(), limit)


def test_packs_of_a_step_cost_about_the_same() -> None:
    lengths = mixture(256 * 20)
    plan = make_plan(lengths, global_batch_size=256)
    costs = [plan.costs(step) for step in range(20)]
    assert np.mean([cost.mean() / cost.max() for cost in costs]) > 0.98
    packs = plan.packs(0)
    assert costs[0] == pytest.approx([COST.of(lengths, pack).sum() for pack in packs])
    one = COST.of(lengths, np.array([[0]]))
    t, v, i = lengths.tokens[0], lengths.items["video"][0], lengths.items["image"][0]
    assert one == pytest.approx(np.array([[t + 2e-5 * t**2 + 500 * v + 60 * i]]))


def test_costs_that_have_nothing_to_do_with_lengths_do_not_make_more_packs() -> None:
    rng = np.random.default_rng(0)
    tokens = np.concatenate([rng.integers(100, 2000, 2560), rng.integers(10, 300, 256)]).astype(np.int32)
    nothing, items = np.zeros_like(tokens), {"video": (rng.random(2816) < 0.01).astype(np.int32)}
    lengths = LengthTable(tokens, nothing, nothing, items)
    order = np.arange(2816)
    by_length = pack_epoch(order, lengths, CostModel(), 256, LIMIT)
    by_cost = pack_epoch(order, lengths, CostModel(items={"video": 50_000}), 256, LIMIT)
    assert len(by_cost.begins) <= len(by_length.begins)
    videos = [items["video"][pack].sum() for pack in by_cost.step(10)]
    assert max(videos) == 1 < sum(videos)


def test_a_weight_says_how_often_an_epoch_takes_a_source() -> None:
    lengths = mixture(300)
    plan = make_plan(lengths, weights=(2.0, 0.25, 1.5), epochs=2)
    epochs = []
    for epoch in range(2):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        epochs.append(np.bincount(list(chain(*samples_of(plan, steps))), minlength=300))
    first, second = epochs
    for counts in epochs:
        assert counts[:100].tolist() == [2] * 100
        assert sorted(counts[100:200]) == [0] * 75 + [1] * 25
        assert sorted(counts[200:]) == [1] * 50 + [2] * 50
    assert first[100:200].tolist() != second[100:200].tolist()
    assert plan.samples_per_epoch == 375
    assert plan.samples_until(plan.steps_per_epoch) == 375


def test_weights_go_with_the_grouped_order() -> None:
    lengths = mixture(2000)
    plan = make_plan(lengths, weights=(0.5, 1.5), order="modality_grouped")
    kinds = [set((lengths.media_tokens[step] > 0).tolist()) for step in samples_of(plan, range(plan.total_steps))]
    assert all(len(kind) == 1 for kind in kinds[:-2])


@pytest.mark.parametrize(("count", "world"), [(1, 1), (7, 1), (7, 2), (8, 4), (3, 8), (44, 8), (44, 5)])
def test_ranks_get_equally_many_packs_each_pack_once(count: int, world: int) -> None:
    costs = np.random.default_rng(count).uniform(1, 2, count)
    shares = share(costs, world)
    assert len(shares) == world
    assert {len(numbers) for numbers in shares} == {-(-count // world)}
    assert sorted(n for numbers in shares for n in numbers if n is not None) == list(range(count))
    assert all(number is not None for numbers in shares for number in numbers[:-1])
    assert share(costs, world) == shares


def test_ranks_get_packs_of_the_same_cost_in_all_and_place_by_place() -> None:
    costs = np.random.default_rng(0).uniform(4000, 9000, 48)
    shares = [costs[numbers] for numbers in share(costs, 8)]  # type: ignore[index]
    totals = np.array([cost.sum() for cost in shares])
    assert totals.mean() / totals.max() > 0.98
    places = np.stack(shares, axis=1)
    assert (places.min(axis=1) / places.max(axis=1)).min() > 0.75


def test_the_identity_survives_json_and_names_what_differs() -> None:
    lengths = mixture(300)
    plan = make_plan(lengths, weights=(1.0, 2.0))
    old = json.loads(json.dumps(plan.identity()))
    same = make_plan(lengths, weights=(1.0, 2.0), max_tokens_per_batch=4000, epochs=3)
    assert explain_difference(old, same.identity()) is None
    assert same.fingerprint == plan.fingerprint

    def difference(lengths: LengthTable = lengths, weights: tuple[float, ...] = (1.0, 2.0), **changes: Any) -> str:
        other = make_plan(lengths, weights, **changes)
        assert other.fingerprint != plan.fingerprint
        return explain_difference(old, other.identity()) or "nothing"

    assert difference(weights=(1.0, 2.0, 1.0)) == "there were 2 annotation files and are 3"
    assert difference(weights=(1.0, 0.5)) == "the weight of 1.json was 2 and is 0.5"
    assert difference(seed=2) == "seed was 1 and is 2"
    assert difference(order="sequential") == "order was shuffled and is sequential"
    assert "other tokens" in difference(lengths=mixture(300, seed=1))
    fewer = lengths.select(np.arange(299))
    assert difference(fewer, data="d") == "other samples are excluded: 300 were left to train on and 299 are now"
    changed = plan.identity()
    changed["files"][1] = {**changed["files"][1], "content": "other"}
    assert explain_difference(old, changed) == "the content of 1.json differs"
