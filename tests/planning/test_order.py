import numpy as np
import pytest

import vidtune
from vidtune.errors import UserError
from vidtune.planning.order import OrderRule, epoch_order, modality_grouped_order
from vidtune.recipe.types import Stage
from vidtune.registry import ORDER_RULES

RNG = np.random.default_rng(0)
LENGTHS = (RNG.integers(1, 60, 103) * np.where(RNG.random(103) < 0.3, -1, 1)).astype(np.int32)


def order(rule: str, **changes: object) -> list[int]:
    settings = {"fingerprint": "f", "seed": 1, "epoch": 0, "global_batch_size": 8, **changes}
    return epoch_order(rule, LENGTHS, **settings).tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", ["shuffled", "modality_grouped", "sequential"])
def test_every_sample_comes_once_and_always_in_the_same_place(rule: str) -> None:
    first = order(rule)
    np.random.default_rng().random(3)
    assert sorted(first) == list(range(len(LENGTHS)))
    assert order(rule) == first


@pytest.mark.parametrize("rule", ["shuffled", "modality_grouped"])
@pytest.mark.parametrize("change", [{"seed": 2}, {"epoch": 1}, {"fingerprint": "g"}])
def test_another_seed_epoch_or_data_gives_another_order(rule: str, change: dict[str, object]) -> None:
    assert order(rule, **change) != order(rule)


def test_the_shuffled_order_does_not_change_between_releases() -> None:
    assert order("shuffled")[:8] == [6, 91, 15, 49, 29, 12, 67, 8]


def test_grouped_batches_hold_one_kind_of_sample_but_for_the_leftovers() -> None:
    indices = order("modality_grouped")
    batches = [indices[start : start + 8] for start in range(0, len(indices), 8)]
    kinds = [{LENGTHS[i] > 0 for i in batch} for batch in batches]
    assert all(len(kind) == 1 for kind in kinds[:-2])
    assert {True} in kinds
    assert {False} in kinds


def test_a_batch_of_text_only_data_is_grouped_too() -> None:
    assert sorted(modality_grouped_order(np.array([-3, -1, -2, -5]), 2, 1)) == [0, 1, 2, 3]


def test_a_sample_without_words_is_named() -> None:
    with pytest.raises(UserError, match="sample number 1 has no words"):
        modality_grouped_order(np.array([3, 0, -2]), 2, 1)


def test_a_registered_rule_orders_the_samples_and_recipes_may_name_it() -> None:
    data = [{"annotations": "a.json"}]
    stage = {"name": "s", "train": {"connectors": 1e-3}, "data": data, "global_batch_size": 8}
    vidtune.register_rule("order.longest", OrderRule(lambda lengths, step_size, draw: np.argsort(-np.abs(lengths))))
    vidtune.register_rule("order.loses", OrderRule(lambda lengths, step_size, draw: np.arange(len(lengths) - 1)))
    try:
        assert np.abs(LENGTHS)[order("longest")].tolist() == sorted(np.abs(LENGTHS), reverse=True)
        assert Stage.model_validate({**stage, "order": "longest"}).order == "longest"
        with pytest.raises(UserError, match="order 'loses': does not return each of the 103 samples once"):
            order("loses")
    finally:
        ORDER_RULES.unregister("longest")
        ORDER_RULES.unregister("loses")
    with pytest.raises(ValueError, match="unknown order rule; did you mean 'shuffled'"):
        Stage.model_validate({**stage, "order": "shufled"})


@pytest.mark.parametrize("found", [None, [0.0, 1.0, 2.0], [[0], [1, 2]], [0, 0, 1]])
def test_a_rule_that_gives_no_order_is_named(found: object) -> None:
    vidtune.register_rule("order.wrong", OrderRule(lambda lengths, size, draw: found))  # type: ignore[arg-type,return-value]
    try:
        with pytest.raises(UserError, match="order 'wrong'"):
            epoch_order("wrong", np.ones(3), fingerprint="", seed=0, epoch=0, global_batch_size=1)
    finally:
        ORDER_RULES.unregister("wrong")
    with pytest.raises(UserError, match=r"expected vidtune\.planning\.order:OrderRule"):
        vidtune.register_rule("order.wrong", len)
