"""What a run says on the console, and what the log keeps."""

import io
import json

from rich.console import Console

from vidtune.training.log import TrainingLog, last_logged_step, recent_step_seconds
from vidtune.training.trackers.console import HINT, StageProgress, summary

LINE = {
    "step": 10,
    "loss": 1.25,
    "gradient_norm": {"connectors.image": 3.0, "total": 5.0},
    "tokens_per_second": 12345.6,
    "data_wait": 0.03,
    "memory_gib": 4.0,
    "ranks": 1,
}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def console(terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=200)


def test_a_line_in_words():
    assert summary(LINE) == "loss 1.2500  norm 5  12,346 tokens/s  4.0 GiB  data wait 3%"
    full = summary({**LINE, "losses": {"grounding": 0.5}, "mfu": 0.412, "ranks": 8})
    assert full == "loss 1.2500  grounding 0.5000  norm 5  12,346 tokens/s  MFU 41.2%  8 ranks  4.0 GiB  data wait 3%"


def test_much_waiting_for_data_says_what_to_do():
    assert HINT not in summary({**LINE, "data_wait": 0.2})
    assert f"waits 21% {HINT}" in summary({**LINE, "data_wait": 0.21})
    assert "vidtune doctor" in HINT


def test_time_left_is_the_median_of_recent_steps_and_known_after_a_resume():
    clock = Clock()
    shown = StageProgress("align", 100, 0, console=console(), clock=clock)
    assert shown.time_left() == "?"
    with shown:
        for step, seconds in enumerate([2, 2, 300, 2, 2], 1):
            clock.now += seconds
            shown.step(step)
    assert shown.time_left() == "3 min 10 s"
    assert StageProgress("align", 100, 40, recent=[2.0, 2.0, 90.0], console=console()).time_left() == "2 min 0 s"


def test_without_a_terminal_there_are_plain_lines_now_and_then():
    clock, out = Clock(), console()
    with StageProgress("align", 100, 0, console=out, clock=clock) as shown:
        for step in range(1, 101):
            clock.now += 1
            shown.step(step)
            if step % 10 == 0:
                shown.numbers({**LINE, "step": step})
        shown.note("sample [1] left out")
    lines = out.file.getvalue().splitlines()
    assert [line.split()[1] for line in lines[:-1]] == ["20/100", "40/100", "60/100", "80/100", "100/100"]
    assert lines[0].endswith("data wait 3%  1 min 20 s left")
    assert lines[-1] == "sample [1] left out"
    assert "\x1b" not in out.file.getvalue()


def test_other_ranks_show_notes_alone():
    out = console(terminal=True)
    with StageProgress("align", 10, 0, enabled=False, console=out) as shown:
        shown.step(1)
        shown.numbers({**LINE, "step": 10})
        shown.note("a note")
    assert out.file.getvalue().strip() == "a note"


def test_a_terminal_shows_a_bar_with_numbers_and_time_left():
    clock, out = Clock(), console(terminal=True)
    with StageProgress("align", 10, 0, console=out, clock=clock) as shown:
        clock.now = 3.0
        shown.step(1)
        shown.numbers({**LINE, "step": 1})
    assert "1/10" in out.file.getvalue() and "27 s left" in out.file.getvalue()
    assert "loss 1.2500" in out.file.getvalue()


def test_lines_after_the_resumed_step_are_dropped_and_half_lines_too(tmp_path):
    log = TrainingLog(tmp_path, 0)
    for step in (10, 20, 30):
        log.write({"step": step, "seconds": 5.0 * step})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 40, "se')
    assert last_logged_step(tmp_path) == 30
    assert recent_step_seconds(tmp_path, 20) == [10.0]
    log = TrainingLog(tmp_path, 20)
    log.write({"step": 30, "seconds": 1.0})
    log.close()
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [10, 20, 30]
    assert recent_step_seconds(tmp_path, 30) == [10.0, 0.1]
