"""Benchmarks of pictures with short answers: normalisation, metrics and files, as the published scripts give them."""

import json

import numpy as np
import pytest
from choice_sets import write_json
from picture_sets import SHORT, gqa, pope, textvqa, write_lines

from vidtune.evaluation.benchmarks.images import textvqa as textvqa_set
from vidtune.evaluation.benchmarks.images.mme import prompt_of
from vidtune.evaluation.benchmarks.measured import Item
from vidtune.evaluation.metrics.images import gqa as gqa_metrics
from vidtune.evaluation.metrics.images import short_answers, yes_no
from vidtune.evaluation.question import Prediction
from vidtune.registry import BENCHMARKS


@pytest.fixture(scope="module")
def fixture(parity_folder):
    return lambda name: json.loads((parity_folder / "evaluation" / f"{name}.json").read_text())


def items_of(questions, answers):
    """Items of a loaded set; ``answers`` maps places to answers."""
    return [
        Item(one.index, one.id, one.video, one.type or "", one.reference, answers.get(one.index), one.index)
        for one in questions.questions
    ]


def value(measured, name, kind=None):
    """A value over all questions, or over those of one type."""
    tasks = [task for one, task in measured.items() if kind in (None, one)]
    found = [task.metrics[name] for task in tasks if name in task.metrics]
    return float(found[0].from_sums(sum(one.statistics.sum(axis=0) for one in found)))


def predictions_of(questions, texts):
    """Predictions by id, in the order of the set."""
    return [
        Prediction(one.id, one.question, "", texts[one.id], one.index, one.video)
        for one in questions.questions
        if one.id in texts
    ]


def test_answers_are_normalised_as_published(fixture):
    data = fixture("vqa_answer_normalization")
    for raw, expected in zip(data["inputs"]["answers"], data["expected"], strict=True):
        assert short_answers.normalised(raw) == expected["final"], raw
        assert short_answers.of_words(raw) == expected["word_tokenize"], raw
        assert short_answers.of_punctuation(raw) == expected["process_punctuation_of_raw"], raw
        assert short_answers.of_numbers(raw) == expected["process_digit_article_of_raw"], raw


def test_soft_accuracy_over_ten_people(fixture):
    data = fixture("textvqa_accuracy")
    worth = []
    for entry, expected in zip(data["inputs"]["entries"], data["expected"]["per_entry"], strict=True):
        worth.append(short_answers.soft_accuracy(entry["pred_answer"], entry["gt_answers"]))
        assert worth[-1] == pytest.approx(expected["textvqa"], abs=1e-9)
        scores = short_answers.soft_accuracies(entry["gt_answers"])
        assert scores == pytest.approx(expected["unique_answer_scores"], abs=1e-9)
    assert sum(worth) / len(worth) == pytest.approx(data["expected"]["textvqa_mean"], abs=1e-9)


def test_textvqa_joins_by_the_question_in_the_prompt(fixture, tmp_path):
    data = fixture("textvqa_pipeline")
    for prompt, expected in zip(data["inputs"]["prompts"], data["expected"]["prompt_to_question"], strict=True):
        assert textvqa_set.question_in(prompt) == (expected if isinstance(expected, str) else None)
    results = data["inputs"]["results"]
    prompts = [(one["question_id"], one["prompt"]) for one in results]
    questions = BENCHMARKS["textvqa"].load(textvqa(tmp_path / "textvqa", data["inputs"]["annotations"], prompts).parent)
    answers = {place: one["text"] for place, one in enumerate(results)}
    measured = BENCHMARKS["textvqa"].measure(items_of(questions, answers)).official
    printed = f"run\nSamples: {len(results)}\nAccuracy: {100 * value(measured, 'accuracy'):.2f}%\n\n"
    assert printed == data["expected"]["stdout"]


def test_gqa_report_and_predictions(fixture, tmp_path):
    data = fixture("gqa")
    for number, (case, expected) in enumerate(zip(data["inputs"]["cases"], data["expected"], strict=True)):
        benchmark = BENCHMARKS["gqa"]
        questions = benchmark.load(gqa(tmp_path / str(number), case["questions"]))
        texts = {one["question_id"]: one["text"] for one in case["answers"]}
        predictions = predictions_of(questions, texts)
        files = dict(benchmark.official_files(predictions, {one.index: one.reference for one in questions.questions}))
        assert json.loads(files["testdev_balanced_predictions.json"]) == expected["predictions_file"]
        assert json.loads(benchmark.submission(predictions, questions)) == expected["predictions_file"]
        assert files.get("gqa_report.txt") == (f"{expected['report']}\n" if "report" in expected else None)
        answers = {one.index: one.pred for one in predictions}
        measured = benchmark.measure(items_of(questions, answers))
        if "report" in expected:
            for name in ("Accuracy", "Binary", "Open"):
                line = f"{name}: {100 * value(measured.official, name.lower()):.2f}%"
                assert line in expected["report"].splitlines()
        else:
            assert value(measured.strict, "accuracy") < value(measured.official, "accuracy")
    assert gqa_metrics.said("Red...") == "red"


def test_pope_counts_and_metrics(fixture):
    data = fixture("pope")
    names = {"accuracy": "accuracy", "f1_score": "F1", "precision": "precision", "recall": "recall"}
    of_counts = {"accuracy": lambda sums: (sums[0] + sums[2]) / sums.sum(), "F1": yes_no.f1_of}
    of_counts |= {"precision": yes_no.precision_of, "recall": yes_no.recall_of}
    for case, expected in zip(data["inputs"]["cases"], data["expected"]["cases"], strict=True):
        said = [yes_no.said_in_pope(text) for text in case["texts"]]
        assert said == expected["pred"]
        if "error" in expected:
            continue
        rows = [yes_no.confusion(one, label) for one, label in zip(said, case["labels"], strict=False)]
        sums = np.array(rows).sum(axis=0)
        assert sums.tolist() == [expected[name] for name in ("TP", "FP", "TN", "FN")]
        for key, name in names.items():
            assert of_counts[name](sums) == pytest.approx(expected[key], abs=1e-12)
        if len(said) == len(case["labels"]):
            assert yes_no.yes_ratio_of(sums) == pytest.approx(expected["yes_ratio"], abs=1e-12)


def test_pope_files_by_category(fixture, tmp_path):
    data = fixture("pope")
    files = data["inputs"]["files"]
    for name, labels in files["annotation_dir"].items():
        write_lines(tmp_path / "coco" / name, labels)
    write_lines(tmp_path / "llava_pope_test.jsonl", files["questions"])
    questions = BENCHMARKS["pope"].load(tmp_path)
    texts = {str(one["question_id"]): one["text"] for one in files["answers"]}
    measured = BENCHMARKS["pope"].measure(
        items_of(questions, {one.index: texts[one.id] for one in questions.questions})
    )
    for block in data["expected"]["files_stdout_blocks_sorted"]:
        lines = block.splitlines()
        kind = lines[0].split(": ")[1].split(",")[0]
        values = [
            value(measured.official, name, kind) for name in ("F1", "accuracy", "precision", "recall", "yes ratio")
        ]
        assert ", ".join(f"{one:.3f}" for one in values) == lines[-1]


def test_uploads_hold_what_the_servers_take(fixture, tmp_path):
    data = fixture("image_submissions")
    cases, expected = data["inputs"], data["expected"]
    vqa = BENCHMARKS["vqa_v2"]
    split = cases["vqav2"]["test_split"]
    write_lines(tmp_path / "vqav2" / "llava_vqav2_mscoco_test2015.jsonl", split)
    write_lines(tmp_path / "vqav2" / "llava_vqav2_mscoco_test-dev2015.jsonl", split)
    questions = vqa.load(tmp_path)
    texts = {str(one["question_id"]): one["text"] for one in cases["vqav2"]["answer_lines"] if isinstance(one, dict)}
    assert json.loads(vqa.submission(predictions_of(questions, texts), questions)) == expected["vqav2"]["upload"]
    for number, (case, upload) in enumerate(zip(cases["vizwiz"], expected["vizwiz"], strict=True)):
        vizwiz = BENCHMARKS["vizwiz"]
        write_lines(tmp_path / str(number) / "vizwiz" / "llava_test.jsonl", case["annotation"])
        questions = vizwiz.load(tmp_path / str(number))
        texts = {str(one["question_id"]): one["text"] for one in case["answer_lines"]}
        predictions = predictions_of(questions, texts)
        if "error" in upload:
            with pytest.raises(Exception, match="1 of 1 questions have no answer"):
                vizwiz.submission(predictions, questions)
        else:
            assert json.loads(vizwiz.submission(predictions, questions)) == upload["upload"]


def test_seed_bench_prints_types_and_media(fixture, tmp_path):
    data = fixture("image_submissions")
    case, expected = data["inputs"]["seed"], data["expected"]["seed"]
    texts = {"question": "?", **{f"choice_{letter}": letter for letter in "abcd"}}
    entries = [{**texts, "data_id": one["question_id"], **one} for one in case["annotation"]["questions"]]
    write_json(tmp_path / "SEED-Bench.json", {**case["annotation"], "questions": entries})
    benchmark = BENCHMARKS["seed_bench"]
    questions = benchmark.load(tmp_path)
    predictions = predictions_of(questions, {str(one["question_id"]): one["text"] for one in case["answers"]})
    official = benchmark.measure(items_of(questions, {one.index: one.pred for one in predictions})).official
    lines = [f"{kind}: {100 * value(official, 'accuracy', kind):.2f}%" for kind in case["annotation"]["question_type"]]
    lines.append(f"Total accuracy: {100 * value(official, 'accuracy'):.2f}%")
    lines += [f"{name}: {100 * value(official, name):.2f}%" for name in ("image accuracy", "video accuracy")]
    assert "\n".join(lines) == expected["stdout"]
    upload = benchmark.submission(predictions, questions).decode().splitlines()
    assert [json.loads(line) for line in upload] == expected["upload_lines"]


def test_mme_reads_replies_and_adds_categories(fixture):
    data = fixture("mme")
    assert [yes_no.said_in_mme(text) for text in data["inputs"]["texts"]] == data["expected"]["parse"]
    assert [prompt_of(text) for text in data["inputs"]["questions"]] == data["expected"]["prompts"]
    for rows, expected in zip(data["inputs"]["cases"], data["expected"]["cases"], strict=True):
        items = [
            Item(place, name, f"{kind}/{name}", kind, {"label": gold.lower()}, reply, place)
            for place, (name, kind, gold, reply) in enumerate(rows)
        ]
        measured = BENCHMARKS["mme"].measure(items).official
        for name in ("perception", "cognition"):
            if items and not isinstance(expected[name], dict):
                assert value(measured, f"{name} points") == pytest.approx(expected[name], abs=1e-9)


def test_a_question_file_holds_the_whole_user_turn(tmp_path):
    questions = BENCHMARKS["pope"].load(pope(tmp_path, {"random": ["yes"]}))
    benchmark = BENCHMARKS["pope"]
    protocol = benchmark.protocol(prompt_format="v1")
    [one] = questions.questions
    assert protocol.question_text(one.question) == f"<image>\nIs there a thing0 in the image?\n{SHORT}"
    assert (one.file, one.video, protocol.generation.max_new_tokens) == ("val2014/i0.jpg", "i0.jpg", 128)
