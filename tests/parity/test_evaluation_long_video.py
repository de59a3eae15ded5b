"""Benchmarks of long videos as the evaluation of VideoChat-Flash and lmms-eval do them: prompts, reading of answers."""

import json

import pytest
from event_sets import event_protocol

from vidtune.evaluation.benchmarks.measured import Item
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
