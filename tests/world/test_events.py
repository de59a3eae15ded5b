import random
from collections import Counter

import pytest

from vidtune.world.event_questions import (
    NOTHING,
    ask_in_order,
    ask_when_and_what,
    marks,
    named,
    tell_all,
    tell_each,
)
from vidtune.world.events import SENSES, SLOT_SECONDS, make_event_clip

CLIPS = [make_event_clip(0, "train", i, 5) for i in range(300)]


def test_a_clip_is_a_pure_function_of_seed_split_and_index():
    random.seed(1)
    assert make_event_clip(0, "train", 5, 5) == CLIPS[5]
    assert make_event_clip(1, "train", 5, 5) != CLIPS[5]
    assert make_event_clip(0, "test", 5, 5) != CLIPS[5]


def test_every_event_fills_a_slot_of_its_own():
    for clip in CLIPS:
        assert clip.duration == 25.6 and 2 <= len(clip.events) <= 4
        slots = [round(event.start / SLOT_SECONDS) for event in clip.events]
        assert slots == sorted(set(slots)) and set(slots) <= set(range(5))
        for slot, event in zip(slots, clip.events, strict=True):
            assert (event.start, event.end) == pytest.approx((slot * SLOT_SECONDS, (slot + 1) * SLOT_SECONDS))
    starts = Counter(event.start for clip in CLIPS for event in clip.events)
    assert len(starts) == 5 and min(starts.values()) > 0.7 * max(starts.values())


def test_a_sentence_names_one_event_and_so_does_what_each_sense_tells():
    for clip in CLIPS:
        assert len({event.sentence for event in clip.events}) == len(clip.events)
        for sense in SENSES:
            told = [told for event in clip.events if (told := event.told_by(sense))]
            assert len(set(told)) == len(told)


def senses(event):
    return tuple(sense for sense in SENSES if event.told_by(sense) is not None)


def test_each_sense_alone_tells_of_a_part_of_the_events():
    alone = Counter(senses(event) for clip in CLIPS for event in clip.events)
    total = sum(alone.values())
    assert all(alone[(sense,)] > 0.15 * total for sense in SENSES)
    assert sum(count for senses, count in alone.items() if len(senses) > 1) > 0.15 * total


def test_one_answer_for_all_questions_of_when_is_seldom_right():
    spans = [(e.start / clip.duration, e.end / clip.duration) for clip in CLIPS for e in clip.events]

    def overlap(first, last):
        inside = [max(0.0, min(e, last) - max(s, first)) / (max(e, last) - min(s, first)) for s, e in spans]
        return sum(inside) / len(inside)

    edges = [k / 20 for k in range(21)]
    assert max(overlap(s, e) for s in edges for e in edges if e > s) < 0.27


def test_a_conversation_tells_the_time_of_no_event_that_it_asks_for():
    for number, clip in enumerate(CLIPS):
        turns = ask_when_and_what(clip, random.Random(number))
        assert len(turns) == len(clip.events)
        assert turns[0][0].startswith("<video>\n") and not any("<video>" in question for question, _ in turns[1:])
        spans = {f"<s{k}> to <e{k}>": event for k, event in enumerate(clip.events)}
        for question, answer in turns:
            (span,) = [span for span in spans if span in question + answer]
            event = spans.pop(span)
            assert (span in answer and named(event) in question) or (span in question and answer == event.sentence)


@pytest.mark.parametrize("sense", SENSES)
def test_what_a_sense_perceives_is_told_with_its_time_in_sentences(sense):
    for clip in CLIPS:
        perceived = [(k, told) for k, event in enumerate(clip.events) if (told := event.told_by(sense))]
        turns = tell_each(clip, sense)
        assert len(turns) == bool(perceived)
        for question, told in turns:
            assert question.startswith("<video>\n")
            sentences = told.removesuffix(".").split(". ")
            assert sentences == [f"{thing} from <s{k}> to <e{k}>" for k, thing in perceived]


def test_all_events_are_told_in_order_and_order_questions_agree():
    for number, clip in enumerate(CLIPS):
        ((_, told),) = tell_all(clip)
        lines = told.split("\n")
        assert [line.split(", ", 1)[1] for line in lines] == [event.sentence for event in clip.events]
        assert list(marks(clip).values()) == sorted(marks(clip).values())
        for question, answer in ask_in_order(clip, random.Random(number)):
            if "How many" in question:
                assert answer == {2: "two.", 3: "three.", 4: "four."}[len(clip.events)]
            elif "first" in question:
                assert answer == lines[0]
            else:
                (place,) = [k for k, event in enumerate(clip.events) if f"after {named(event)}?" in question]
                assert answer == [*lines, NOTHING][place + 1]
