"""Frames of a video that stand as pictures between its subtitles, in the texts of questions about it."""

import pytest
from choice_sets import write_json
from qa_sets import records
from synthetic_clips import write_clip
from tiny_checkpoint import write_checkpoint

from vidtune.evaluation.asking.shared_videos import Session
from vidtune.evaluation.benchmarks.multiple_choice import longvideobench
from vidtune.evaluation.benchmarks.multiple_choice.subtitles import Line, between_lines, placed_frames
from vidtune.evaluation.checkpoint import AnsweringOptions, open_checkpoint
from vidtune.evaluation.models.frames import pieces
from vidtune.evaluation.predict import Variant, predict_benchmark
from vidtune.evaluation.question import question_text
from vidtune.generation.settings import Request
from vidtune.media.probe import probe
from vidtune.registry import BENCHMARKS

NAME = "longvideobench_interleaved"
LETTER = "Answer with the option's letter from the given choices directly."
SAID = [("0:00:00.2", "0:00:00.9", "one"), ("0:00:01.1", "0:00:03.3", "two"), ("0:00:03.6", "0:00:03.8", "three")]


def entry(number, question):
    document = {"id": f"v_{number}", "video_path": "v.mp4", "subtitle_path": "v_en.json", "duration": 4.0}
    document |= {"question": question, "starting_timestamp_for_subtitles": 0, "duration_group": 15, "correct_choice": 1}
    return document | {f"option{place}": text for place, text in enumerate(["cat", "dog", "N/A", "N/A", "N/A"])}


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch):
    """Metadata are read in this process, which is faster."""
    monkeypatch.setattr(longvideobench, "probed", lambda videos: {name: probe(path) for name, path in videos.items()})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lvb")
    write_json(
        folder / "lvb_val.json", [entry(0, "Who?"), entry(1, "Where?"), {**entry(2, "?"), "video_path": "w.mp4"}]
    )
    write_json(folder / "subtitles" / "v_en.json", [{"start": a, "end": b, "line": text} for a, b, text in SAID])
    (folder / "videos").mkdir()
    write_clip(folder / "videos" / "v.mp4", num_frames=40)  # 4 seconds
    return folder


def texts(name, data):
    protocol = BENCHMARKS[name].protocol(prompt_format="v1")
    return [question_text(one, protocol, media="") for one in BENCHMARKS[name].load(data).questions]


def test_frames_stand_between_the_subtitles_of_a_video(data):
    first, second, missing = BENCHMARKS[NAME].load(data).questions
    assert [(ref.stream, ref.path, ref.start, ref.end) for ref in first.media] == [
        ("image", "videos/v.mp4", float(second), None) for second in range(4)
    ]
    assert first.media == second.media and missing.missing and not missing.media
    # A line before the first frame behind its middle; the last one is short, and taken as one second long.
    told = "<image>\none\n<image>\n<image>\ntwo\n<image>\n"
    assert texts(NAME, data)[0] == f"\n{told}Question: Who?\nA. cat\nB. dog\n{LETTER}"
    assert texts(f"{NAME}_lmms_eval", data)[1] == f"\n{told}Where?\nA. cat\nB. dog\n{LETTER}\n"
    assert BENCHMARKS[NAME].protocol(prompt_format="v1").stream == "image"


@pytest.mark.parametrize(
    ("lines", "times", "found"),
    [
        ([], [0, 1], "# #"),
        ([Line(-3, -2, "before"), Line(0.5, 1.5, "a")], [0, 1, 2], "# # a #"),
        ([Line(0, 2, "a"), Line(9, 10, "behind")], [1, 2, 3], "# a # #"),
        (
            [Line(2.6, 2.8, "short"), Line(1.2, 1.8, "unseen")],
            [0, 1, 2.3, 4],
            "# # # short #",
        ),
        ([Line(5, 7, "late"), Line(0, 2, "early")], [1, 4, 6, 9], "# # # late early #"),  # as the file orders them
    ],
)
def test_the_places_of_lines(lines, times, found):
    assert " ".join(between_lines(lines, times, "#")) == found


def test_frames_are_taken_at_even_steps_of_whole_frames():
    assert placed_frames(100.0, 30.03, 3003, 4) == [0, 750, 1500, 2250]
    assert placed_frames(3.9, 10.0, 39, 64) == [0, 13, 26] and placed_frames(0.5, 10.0, 5, 64) == [0]
    assert placed_frames(100.0, 10.0, 500, 4) == [0, 250, 499, 499]  # the file is shorter than the set says


def test_questions_with_pictures_in_their_text_share_what_is_before_them(data, tmp_path):
    loaded = open_checkpoint(write_checkpoint(tmp_path / "checkpoint"))

    def run(folder, **options):
        variant = Variant(overrides={"generation": {"max_new_tokens": 3}})
        answering, session = AnsweringOptions(workers=0, **options), Session(progress=False)
        summary = predict_benchmark(loaded, NAME, data, tmp_path / folder, variant, answering, session)
        [work] = records(summary.run_dir / "work.jsonl")
        return [one["pred"] for one in records(summary.run_dir / "predictions.jsonl")], work

    together, work = run("together")
    assert (work["asked"], work["media"], work["media_loaded"], work["encodings"], work["prefills"]) == (2, 4, 4, 4, 1)
    alone, work = run("alone", share_prefix=False)
    assert together == alone and work["prefills"] == 2


def test_models_with_a_processor_of_their_own_get_texts_and_pictures_in_this_order(data):
    question = BENCHMARKS[NAME].load(data).questions[0]
    found = pieces(Request("0", question.media, texts(NAME, data)[0].lstrip()))
    assert found[:-1] == [0, "one", 1, 2, "two", 3] and found[-1].startswith("Question: Who?")
