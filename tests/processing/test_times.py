from dataclasses import replace

import pytest
from tiny_stage import PROMPT, SYSTEM, maker

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Sample, Times, Turn
from vidtune.errors import UserError
from vidtune.processing.processor import VideoLMProcessor
from vidtune.processing.times import mark_times, spans_in_text, time_rule
from vidtune.registry import SYSTEMS

TURNS = (Turn("user", "<video>\nFrom <s1> to <e1>?"), Turn("assistant", "From <s1> to <e10>, a dog; <s1>."))
TIMES = Times(200.0, (("<s1>", 5.0), ("<e1>", 9.4), ("<e10>", 250.0), ("<s2>", 7.0)))


@pytest.mark.parametrize(
    ("second", "duration", "text"),
    [
        (0, 54.2, "00"),
        (9.4, 54.2, "17"),
        (0.5, 100, "00"),
        (1.5, 100, "02"),
        (2.5, 100, "02"),
        (99.4, 100, "99"),
        (100, 100, "99"),
        (250, 200, "99"),
        # The division comes first, so that 4.8 / 12.8 * 100 is just below a half, and 11.5 / 18.4 * 100 a half.
        (4.8, 12.8, "37"),
        (11.5, 18.4, "62"),
    ],
)
def test_percent_are_two_digits_rounded_half_to_even(second: float, duration: float, text: str) -> None:
    assert time_rule("percent").write(second, duration) == text


def test_percent_are_read_as_seconds() -> None:
    read = time_rule("percent").read
    assert read("00", 54.2) == 0
    assert read("17", 200.0) == 34.0
    assert all(time_rule("percent").write(read(f"{n:02d}", 61.4), 61.4) == f"{n:02d}" for n in range(100))


def test_every_mark_in_every_turn_becomes_its_moment() -> None:
    written = mark_times(TURNS, TIMES, "percent")
    assert [turn.text for turn in written] == ["<video>\nFrom 02 to 05?", "From 02 to 99, a dog; 02."]
    assert [turn.role for turn in written] == ["user", "assistant"]


def test_turns_without_times_stay_as_they_are() -> None:
    assert mark_times(TURNS, None, None) == mark_times(TURNS, None, "percent") == TURNS
    assert mark_times(TURNS[:1], Times(9.0, (("<s7>", 1.0),)), None) == TURNS[:1]


def test_a_mark_needs_a_rule() -> None:
    with pytest.raises(SampleProblem, match="<s1> stands for a moment") as caught:
        mark_times(TURNS, TIMES, None)
    assert caught.value.reason == "times without a rule"
    with pytest.raises(UserError, match="unknown rule for times 'frames'; known: percent"):
        mark_times(TURNS, TIMES, "frames")


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("From 10 to 25.", [(20.0, 50.0)]),
        ("From 00 to 08, a dog.\nFrom 09 to 99, a cat.", [(0.0, 16.0), (18.0, 198.0)]),
        ("between 07 and 12", [(14.0, 24.0)]),
        ("From 25 to 10.", [(50.0, 20.0)]),
        ("From 100 to 129, or 19 to 2004, or 5 to 9", []),
        ("nothing", []),
    ],
)
def test_stretches_of_time_in_an_answer(text: str, spans: list[tuple[float, float]]) -> None:
    assert spans_in_text(text, 200.0, "percent") == spans


def test_examples_are_made_of_moments_by_the_rule_of_the_system(
    processor: VideoLMProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = Sample("train:3", (Turn("user", "From <s1>?"), Turn("assistant", "To <e1>.")), (), TIMES)
    plain = Sample("train:3", (Turn("user", "From 02?"), Turn("assistant", "To 05.")))
    with pytest.raises(SampleProblem, match="sample train:3: <s1> stands for a moment"):
        processor.example(timed, PROMPT)
    key = maker(processor).key()
    system = SYSTEMS[SYSTEM]
    with_rule = replace(system, dialect=replace(system.dialect, times="percent"))
    monkeypatch.setitem(SYSTEMS.loaded, SYSTEM, with_rule)
    example, expected = processor.example(timed, PROMPT), processor.example(plain, PROMPT)
    assert example.input_ids.tolist() == expected.input_ids.tolist()
    assert example.labels.tolist() == expected.labels.tolist()
    assert maker(processor).key() != key
