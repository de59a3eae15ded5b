"""Every rule of the doctor: spoken when its measurements call for it, silent when they do not."""

from typing import Any

import pytest

from vidtune.recipe.types import Stage
from vidtune.training.inspection.advice import describe, diagnose
from vidtune.training.inspection.doctor import StepMeasurements

GIB = 2**30
FILES = {f"/videos/{number}.mp4": 0.1 for number in range(40)}  # half a second per step


def measured(stage: dict[str, Any] | None = None, **changes: Any) -> StepMeasurements:
    """Eight steps on a GPU of 80 GiB that all is well with; ``parts`` and the stage's settings may be given in part."""
    settings = {"name": "tune", "train": {"connectors": 1e-3}, "data": [{"annotations": "a.json"}], **(stage or {})}
    whole = {"global_batch_size": 16, "precision": "bfloat16", **settings}
    parts = {"transfer": 0.05, "forward": 2.5, "backward": 5.0, "optimizer": 0.4, **changes.pop("parts", {})}
    values: dict[str, Any] = {
        "device": "cuda",
        "cores": 16,
        "threads": 12,
        "workers": 2,
        "steps": 8,
        "packs": 32,
        "samples": 128,
        "tokens": 250_000,
        "seconds": 8.0,
        "waiting": 0.02,
        "tokenizing": 0.1,
        "decoding_cpu": 3.6,
        "files": FILES,
        "media_bytes": 600_000_000,
        "float_streams": ("video",),
        "memory": 60 * GIB,
        "memory_limit": 80 * GIB,
    }
    return StepMeasurements(stage=Stage.model_validate(whole), parts=parts, **(values | changes))


def advice(found: StepMeasurements) -> str:
    return "\n".join(diagnose(found)[1])


def test_when_all_is_well_computing_is_the_bottleneck_and_nothing_is_to_change() -> None:
    what, changes = diagnose(measured())
    assert what == "computing: forward and backward take 94% of the time, data keep up (wait 0%)"
    assert changes == []
    assert describe(measured()).endswith("data keep up (wait 0%)\nnothing to change")


def test_waiting_for_data_asks_for_the_workers_it_takes() -> None:
    found = measured(waiting=4.0, files={path: 0.6 for path in FILES}, decoding_cpu=22.0)
    assert diagnose(found)[0].startswith(
        "data: 50% of the time was spent waiting for them; decoding takes 1.5 s a step"
    )
    # 24 worker seconds for every 4 of computing, and a fifth more.
    assert diagnose(found)[1] == [
        "set workers: 8 (now 2): decoding takes 3 s of a worker a step, everything else 0.5 s"
    ]


def test_packs_that_were_ready_do_not_hide_workers_that_are_too_slow() -> None:
    found = measured(files={path: 0.6 for path in FILES}, decoding_cpu=22.0)
    assert "the packs that were ready at the start will run out" in diagnose(found)[0]
    assert "set workers: 4 (now 2)" in advice(found)


def test_when_there_are_no_cores_left_smaller_media_are_asked_for() -> None:
    text = advice(measured(waiting=4.0, files={path: 0.6 for path in FILES}, decoding_cpu=22.0, cores=4))
    assert "set workers: 3 (now 2)" in text
    assert "4 cores cannot decode as fast as the device computes" in text and "8 workers would do" in text


SLOW = {"waiting": 4.0, "files": {path: 0.6 for path in FILES}, "decoding_cpu": 6.0}  # 24 s, 18 of them waiting


@pytest.mark.parametrize(
    ("queued", "crowded", "cause"),
    [
        (0.5, False, "workers compute only 25% of their time, the rest they wait for the disk"),
        (0.5, True, "workers compute only 25% of their time, the rest they wait for the disk"),
        (12.0, False, "25% of their time, 50% they wait for a core: other programs use the cores of this machine"),
        (12.0, True, "25% of their time: 2 of them and 16 compute threads share 16 cores; lower workers"),
        (None, False, "25% of their time; this system does not tell whether the rest is the disk"),
        (None, True, "25% of their time: 2 of them and 16 compute threads share 16 cores; lower workers"),
    ],
)
def test_workers_that_wait_for_the_disk_are_told_from_workers_that_wait_for_a_core(queued, crowded, cause) -> None:
    place = {"device": "cpu", "threads": 16} if crowded else {}
    said = advice(measured(**SLOW, **place, decoding_queued=queued))
    assert cause in said and ("the disk" in said) == ("the disk" in cause)


def test_no_workers() -> None:
    assert advice(measured(workers=0)).startswith(
        "workers is 0: media are decoded in the training process, 0.5 s a step"
    )
    assert "set workers: 1" in advice(measured(workers=0))
    assert "workers is 0" not in advice(measured(workers=0, files={}))


def test_slow_files_are_named_with_their_seconds() -> None:
    found = measured(files={**FILES, "/videos/long.mp4": 2.5, "/videos/longer.mp4": 3.0, "/videos/mild.mp4": 0.4})
    assert [text.split(" to read")[0] for text in diagnose(found)[1]] == [
        "/videos/longer.mp4 takes 3.00 s",
        "/videos/long.mp4 takes 2.50 s",
    ]
    assert "30 times the median file (0.100 s)" in advice(found)


def test_files_that_fail_are_counted_and_the_first_is_named() -> None:
    text = advice(measured(failed={"/videos/a.mp4": "file is empty", "/videos/b.mp4": "file does not exist"}))
    assert text.startswith("2 of the files could not be read, such as /videos/a.mp4: file is empty; vidtune data check")


def test_transfer_asks_for_grey_levels_where_pixels_are_float() -> None:
    busy = {"parts": {"transfer": 1.0}}
    assert diagnose(measured(**busy))[0] == "transfer to the device: 12% of the time; data wait 0%"
    assert "set media: {video: {pixels: uint8}}: 75 MB of pixels a step" in advice(measured(**busy))
    assert advice(measured(**busy, float_streams=())) == ""


@pytest.mark.parametrize(("tokens", "packs", "asked"), [(130_000, 32, True), (130_000, 16, False), (4_000, 8, False)])
def test_gaps_in_packs_ask_for_a_larger_limit(tokens: int, packs: int, asked: bool) -> None:
    text = advice(measured(tokens=tokens, packs=packs))
    assert ("packs are 50% full, 4.0 a step" in text and "try 16,384" in text) == asked


def test_many_small_packs_on_a_roomy_device_ask_for_larger_ones() -> None:
    many = {"packs": 160, "tokens": 1_200_000}
    assert "a step makes 20 passes and uses 25% of the device's memory" in advice(measured(**many, memory=20 * GIB))
    assert advice(measured(**many)) == ""


def test_checkpointing_is_asked_off_when_there_is_room() -> None:
    stage = {"gradient_checkpointing": True}
    text = advice(measured(stage, memory=20 * GIB))
    assert text.startswith("set gradient_checkpointing: false: only 25% of the memory is in use, and the backward pass")
    assert advice(measured(stage)) == ""


def test_float32_on_an_accelerator_is_noticed() -> None:
    assert advice(measured({"precision": "float32"})).startswith("set precision: bfloat16")
    assert advice(measured({"precision": "float32"}, device="cpu", threads=16)) == ""


def test_idle_cores_and_idle_workers_are_noticed() -> None:
    assert (
        advice(measured(device="cpu", threads=1)) == "computing uses 1 of 16 cores: set OMP_NUM_THREADS=16, or unset it"
    )
    assert advice(measured(workers=8)) == "workers: 1 would do (now 8, which are busy 6% of the time)"


def test_an_optimizer_that_dominates_is_named() -> None:
    found = measured(parts={"forward": 1.0, "backward": 2.0, "optimizer": 4.5})
    assert diagnose(found)[0].startswith("the optimizer: 56% of the time")
