"""Benchmarks of long videos as the evaluation of VideoChat-Flash and lmms-eval do them: prompts, reading of answers."""

import json

import pytest
from event_sets import event_protocol

from vidtune.evaluation.benchmarks.measured import Item
from vidtune.evaluation.benchmarks.multiple_choice import longvideobench
from vidtune.evaluation.benchmarks.multiple_choice.subtitles import frame_times, lines_at
from vidtune.evaluation.benchmarks.temporal_grounding.reading import first_pair, first_pair_of_sentences
from vidtune.evaluation.metrics.grounding import interval_iou
from vidtune.evaluation.question import prediction_of, question_text
from vidtune.registry import BENCHMARKS

CHARADES = ("charades_sta", "charades_sta_lmms_eval")
THRESHOLDS = {"R1@0.3": "3", "R1@0.5": "5", "R1@0.7": "7"}


def load(folder, name):
    fixture = json.loads((folder / "evaluation" / f"{name}.json").read_text())
    return fixture["inputs"], fixture["expected"]


@pytest.mark.parametrize(
    ("read", "rule"),
    [(first_pair, "videochat"), (first_pair_of_sentences, "lmms_eval_0_7_2")],
    ids=["fork", "lmms_eval"],
)
def test_times_in_answers_are_read_as_published(parity_folder, read, rule):
    inputs, expected = load(parity_folder, "temporal_grounding_charades")
    for text, wanted in zip(inputs["texts"], expected[f"{rule}_extract_time"], strict=True):
        # Where the published script ends with an error, there is no pair.
        pairs = [] if isinstance(wanted, dict) else wanted
        assert read(text) == (tuple(pairs[0]) if pairs else None), text


def test_overlap_of_seconds_is_the_published_one(parity_folder):
    inputs, expected = load(parity_folder, "temporal_grounding_charades")
    for (first, second), wanted in zip(inputs["iou_pairs"], expected["iou"], strict=True):
        found = interval_iou(tuple(first), tuple(second))
        assert found == pytest.approx(0 if isinstance(wanted, dict) else wanted, abs=1e-12)


def charades_items(benchmark, inputs, folder):
    (folder / "charades_sta_test.json").write_text(json.dumps([doc for doc, _ in inputs["docs"]]))
    questions = benchmark.load(folder).questions
    answers = [answer for _, answer in inputs["docs"]]
    items = [
        Item(one.index, one.id, one.video, one.type, one.reference, answer)
        for one, answer in zip(questions, answers, strict=True)
    ]
    return questions, items


@pytest.mark.parametrize("name", CHARADES)
def test_charades_asks_and_scores_as_published(parity_folder, tmp_path, name):
    inputs, expected = load(parity_folder, "temporal_grounding_charades")
    benchmark = BENCHMARKS[name]
    questions, items = charades_items(benchmark, inputs, tmp_path)
    protocol = event_protocol(name)
    assert [question_text(one, protocol, media="") for one in questions] == [
        f"\n{prompt}" for prompt in expected["prompts"]
    ]
    found = benchmark.measure(items).official["grounding"]
    assert len(found.ids) == len(expected["submission"])
    answered = [prediction_of(one, protocol, item.pred) for one, item in zip(questions, items, strict=True)]
    [(_, submission)] = benchmark.official_files(answered, {item.index: item.reference for item in items})
    assert json.loads(submission) == expected["submission"]
    assert protocol.generation.max_new_tokens == 50 and not protocol.generation.do_sample
    for metric, digit in THRESHOLDS.items():
        wanted = expected["videochat_report"][f"IOU 0.{digit}"], expected[f"lmms_eval_0_7_2_iou{digit}"]
        assert found.metrics[metric].value * 100 == pytest.approx(wanted[CHARADES.index(name)], abs=1e-9)
    assert found.metrics["mIoU"].value * 100 == pytest.approx(expected["lmms_eval_0_7_2_miou"], abs=1e-9)


def worded(name, folder):
    """The prompts of a benchmark, without what the system puts before them."""
    protocol = event_protocol(name, question_template="{media}{question}")
    return [question_text(one, protocol, media="") for one in BENCHMARKS[name].load(folder).questions]


def video_mme(folder, documents, subtitles):
    letters = "ABCD"
    entries = [
        {
            "question_id": str(number),
            "videoID": f"v{number}",
            "duration": "long",
            "question": document["question"],
            "options": [f"{letter}. {one}" for letter, one in zip(letters, document["candidates"], strict=False)],
            "answer": "A",
        }
        for number, document in enumerate(documents)
    ]
    (folder / "subtitle").mkdir(parents=True)
    (folder / "videomme.jsonl").write_text("\n".join(json.dumps(entry) for entry in entries))
    for number, text in enumerate(subtitles):
        if text is not None:
            (folder / "subtitle" / f"v{number}.srt").write_text(text)
    return folder


def test_video_mme_is_worded_as_published(parity_folder, tmp_path):
    inputs, expected = load(parity_folder, "videochat_flash_prompts")
    assert worded("video_mme", video_mme(tmp_path / "a", inputs["mc_docs"], ())) == expected["videomme"]
    in_turn = [inputs["mc_docs"][number % len(inputs["mc_docs"])] for number in range(len(inputs["srt"]))]
    found = worded("video_mme_subtitles", video_mme(tmp_path / "b", in_turn, inputs["srt"]))
    assert found == expected["videomme_w_subtitle"]


def test_frames_whose_subtitles_are_taken_are_those_published(parity_folder):
    inputs, expected = load(parity_folder, "videochat_flash_prompts")
    assert [frame_times(*given) for given in inputs["frame_ts"]] == expected["longvideobench_frame_timestamps"]


def test_longvideobench_is_worded_as_published(parity_folder, tmp_path, monkeypatch):
    inputs, expected = load(parity_folder, "videochat_flash_prompts")
    for number, (given, lines) in enumerate(zip(inputs["lvb_sub"], expected["longvideobench_subtitles"], strict=True)):
        folder = tmp_path / str(number)
        (folder / "subtitles").mkdir(parents=True)
        (folder / "subtitles" / "v_en.json").write_text(json.dumps(given["subtitles"]))
        times = frame_times(given["duration"], given["max_num_frames"])
        path = folder / "subtitles" / "v_en.json"
        assert "\n".join(lines_at(path, times, given["start"], given["duration"])) == lines
        options = {f"option{place}": text for place, text in enumerate([*given["options"], "N/A", "N/A"])}
        document = {
            "id": "v_0",
            "video_path": "v.mp4",
            "subtitle_path": "v.json",
            "duration": given["duration"],
            "starting_timestamp_for_subtitles": given["start"],
            "duration_group": 15,
            "question": given["question"],
            "correct_choice": 0,
            **options,
        }
        (folder / "lvb_val.json").write_text(json.dumps([document]))
        monkeypatch.setattr(longvideobench, "FRAMES", given["max_num_frames"])
        assert worded("longvideobench", folder) == [expected["longvideobench_prompt"][number]]
