"""The picture of examples: one question of each type, whatever its answer."""

from pathlib import Path

import pytest
from PIL import Image
from qa_sets import StubEngine, stub_protocol, stub_run, write_set, write_video

from vidtune.evaluation.judges.base import DEFAULT_JUDGE
from vidtune.evaluation.report import examples, pictures
from vidtune.evaluation.report.examples import draw_examples
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.scores.comparison import StoredRun
from vidtune.evaluation.scores.scoring import score_run

ENTRIES = [
    ("clip0", "What colour?", "white"),
    ("clip0", "Which way?", "right"),
    ("clip1", "What colour here?", "red"),
    ("clip1", "Which way here?", "left"),
    ("gone", "How many?", "one"),
]
TYPES = ["colour", "direction", "colour", "direction", "count"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    data = write_set(folder / "set", ENTRIES, types=TYPES, missing=["gone"])
    for name, colour in (("clip0", (20, 60, 160)), ("clip1", (160, 40, 30))):
        write_video(data / "videos" / f"{name}.mp4", colour)
    seeing = stub_run(data, folder / "seeing", StubEngine({q: "white" for _, q, _ in ENTRIES})).run_dir
    blind = stub_run(data, folder / "blind", StubEngine({}), stub_protocol(blind=True)).run_dir
    for run in (seeing, blind):
        score_run(run)
    return seeing, blind


def test_each_type_has_its_first_question_about_a_video_of_its_own(runs, tmp_path, monkeypatch):
    drawn = []
    row = examples._row
    monkeypatch.setattr(examples, "_row", lambda *given: drawn.append(given) or row(*given))
    seeing, blind = runs
    out = draw_examples(seeing, tmp_path / "x.png", judge=DEFAULT_JUDGE, beside=("blind", blind))
    assert [(one.question, outcome.verdict) for one, _, outcome, _ in drawn] == [
        ("What colour?", "right"),
        ("Which way here?", "wrong"),
    ]
    assert all(other.startswith("blind: ") for *_, other in drawn)
    with Image.open(out) as picture:
        shades = {colour for _, colour in picture.convert("RGB").getcolors(picture.width * picture.height)}
    assert {(15, 120, 50), (180, 30, 30)} <= shades


def test_media_are_read_in_workers_and_one_that_cannot_be_costs_its_own_picture(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "read_clip", None)  # nothing is read here
    folder = Path(RunFolder(runs[0]).info.data.folder)
    first = folder / "videos" / "clip0.mp4"
    shown = [one.question for one, _ in examples._shown(StoredRun.read(RunFolder(runs[0]), DEFAULT_JUDGE))]
    assert shown == ["What colour?", "Which way here?"]
    first.write_bytes(b"no video")
    shown = [one.question for one, _ in examples._shown(StoredRun.read(RunFolder(runs[0]), DEFAULT_JUDGE))]
    assert shown == ["What colour here?"] or shown == ["Which way here?"]
    (folder / "videos" / "clip1.mp4").write_bytes(b"no video")
    assert draw_examples(runs[0], tmp_path / "y.png", judge=DEFAULT_JUDGE) is None
    assert not (tmp_path / "y.png").exists()
