"""The progress display."""

import io

import pytest
from rich.console import Console

from vidtune.machine.progress import ProgressDisplay, duration


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def console(terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=200)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (3725, "1 h 2 min"), (86400 * 2 + 3 * 3600 + 59, "2 d 3 h")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_time_left_is_the_median_of_recent_items_and_known_after_a_resume():
    clock = Clock()
    display = ProgressDisplay(console=console(), clock=clock)
    display.start("align", 100)
    assert display.time_left("align") == "?"
    for done, seconds in enumerate([2, 2, 300, 2, 2], 1):
        clock.now += seconds
        display.count("align", done, 100)
    assert display.time_left("align") == "3 min 10 s"
    display.start("tune", 100, done=40, recent=[2.0, 2.0, 90.0])
    assert display.time_left("tune") == "2 min 0 s"


def test_a_task_that_begins_anew_forgets_how_fast_it_was():
    clock = Clock()
    display = ProgressDisplay(console=console(), clock=clock)
    for done in range(6):
        clock.now += 0.01
        display("samples", done, 5)
    clock.now += 20
    display("samples", 0, 29)
    assert display.time_left("samples") == "?"
    clock.now += 2
    display("samples", 1, 29)
    assert display.time_left("samples") == "56 s"


def test_without_a_terminal_there_are_plain_lines_now_and_then():
    clock, out = Clock(), console()
    with ProgressDisplay(console=out, clock=clock) as display:
        display.start("files", 40)
        for done in range(1, 41):
            clock.now += 1
            display("files", done, 40, f"loss [{done}]")
        display.note("a note")
    assert out.file.getvalue().splitlines() == [
        "files 15/40  loss [15]  25 s left",
        "files 30/40  loss [30]  10 s left",
        "files 40/40  loss [40]",
        "a note",
    ]


def test_a_short_task_prints_no_line():
    out = console()
    with ProgressDisplay(console=out, clock=Clock()) as display:
        display("files", 0, 2)
        display.advance("files")
        display.advance("files")
    assert out.file.getvalue() == ""


def test_a_disabled_display_shows_notes_alone():
    out = console(terminal=True)
    with ProgressDisplay(enabled=False, console=out) as display:
        display("files", 10, 10, "details")
        display.note("a note")
    assert out.file.getvalue().strip() == "a note"


def test_a_terminal_shows_bars_with_details_and_time_left():
    clock, out = Clock(), console(terminal=True)
    with ProgressDisplay(console=out, clock=clock) as display:
        display.start("files", 10)
        clock.now = 3.0
        display("files", 1, 10, "loss 1.25")
        display("tokens", 5, 20)
        display.count("files", 2, 10)
        display("files", 2, 10, "loss 1.25")
    text = out.file.getvalue()
    assert "2/10" in text and "5/20" in text and "left" in text and "loss 1.25" in text
