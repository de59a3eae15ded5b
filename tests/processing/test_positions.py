"""Spans of examples and the positions that rules give to them."""

import numpy as np
import pytest
from three_axes import by_rows

from vidtune.data.sample import MediaRef
from vidtune.errors import UserError
from vidtune.extending import register_rule
from vidtune.processing.batch import Example, MediaSlot, pack
from vidtune.processing.positions import Positions, Span
from vidtune.processing.stream_settings import Measured
from vidtune.registry import POSITION_RULES

SLOTS = (
    MediaSlot(MediaRef("video", "/a.mp4"), 4, measured=Measured(4, (2, 1, 2))),
    MediaSlot(MediaRef("audio", "/a.mp4"), 1),
    MediaSlot(MediaRef("video", "/b.mp4"), 3, measured=Measured(4, (2, 1, 2))),
)


def example(owners, media=SLOTS, **fields):
    ids = np.arange(len(owners))
    return Example("sample 7", ids, np.full_like(ids, -100), media, owners=np.array(owners), **fields)


def test_spans_are_runs_of_text_and_of_one_item():
    owners = [-1, -1, 0, 0, -1, 0, 0, 1, 2, 2, 2, -1]  # the first video with text between its frames, the last one cut
    assert example(owners).spans() == [
        Span(2),
        Span(2, "video", 0, (2, 1, 2)),
        Span(1),
        Span(2, "video", 2, (2, 1, 2)),
        Span(1, "audio"),
        Span(3, "video", 0, (2, 1, 2)),
        Span(1),
    ]
    assert example([-1, -1], ()).spans() == [Span(2)]


def test_positions_count_from_zero_in_every_example_of_a_pack():
    examples = [example([-1, -1, -1], ()), example([-1, -1], ())]
    assert pack(examples, [(), ()]).position_ids.tolist() == [[0, 1, 2, 0, 1]]


def test_a_made_up_rule_stands_items_in_rows():
    values, following = by_rows(example([-1, 0, 0, 0, 0, -1]).spans())
    assert values.tolist() == [[0, 1, 1, 1, 1, 6], [0, 1, 1, 1, 2, 6], [0, 1, 3, 5, 1, 6]]
    assert following == 7


@pytest.fixture
def wrong_rule():
    register_rule("positions.wrong", lambda spans: Positions(np.zeros((3, 2), np.int64), 2))
    yield "wrong"
    POSITION_RULES.unregister("wrong")


def test_rules_that_do_not_exist_or_miscount_are_named(wrong_rule):
    with pytest.raises(UserError, match=r"unknown position rule 'sequentail'.*sequential"):
        example([-1], (), position_rule="sequentail").positions()
    with pytest.raises(UserError, match=r"sample 7: position rule 'wrong' gives shape \(3, 2\).*\(axes, 3\)"):
        example([-1] * 3, (), position_rule=wrong_rule).positions()


@pytest.mark.parametrize(
    "rule",
    [
        lambda spans: Positions(np.zeros((1, 3)), 3),
        lambda spans: Positions(np.zeros((0, 3), np.int64), 3),
        lambda spans: Positions(np.full((1, 3), -1), 3),
        lambda spans: Positions(np.zeros((1, 3), np.int64), None),
        lambda spans: Positions(np.zeros((1, 3), np.int64), -1),
        lambda spans: Positions([[0, 1, 2]], 3),
        lambda spans: np.arange(3),
        lambda spans: spans[9],
    ],
)
def test_rules_that_give_no_positions_are_named(rule):
    POSITION_RULES.register("wrong", rule)
    try:
        with pytest.raises(UserError, match=r"^sample 7: position rule 'wrong'"):
            example([-1] * 3, (), position_rule="wrong").positions()
    finally:
        POSITION_RULES.unregister("wrong")


def test_samples_of_a_pack_have_one_number_of_axes():
    POSITION_RULES.register("by_length", lambda spans: Positions(np.zeros((spans[0].length, spans[0].length), int), 1))
    try:
        examples = [example([-1] * length, (), position_rule="by_length") for length in (1, 3)]
        with pytest.raises(UserError, match=r"sample 7: position rule 'by_length' gives 3 axes, but 1"):
            pack(examples, [(), ()])
    finally:
        POSITION_RULES.unregister("by_length")
