"""The three event tasks as the published scripts ask, log and score them, from the test set to the numbers."""

import json

import pytest
from event_sets import InTurn, event_run
from qa_sets import records

from vidtune.errors import UserError
from vidtune.evaluation.metrics.programs.meteor import meteor_problem
from vidtune.evaluation.runs.official_log import import_log
from vidtune.evaluation.scores.score import Score
from vidtune.evaluation.scores.scoring import score_run

TOLERANCE = 1e-6


def load(folder, name):
    return json.loads((folder / "evaluation" / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def fixture(parity_folder):
    return load(parity_folder, "longvale_queries")


def feature_folder(folder, given):
    """Visual features of all videos but those the fixture says are missing."""
    folder.mkdir()
    for video in given["annotations"]:
        if video not in given["missing_video_features"]:
            (folder / f"{video}.npy").touch()
    return folder


def test_queries_are_asked_in_the_published_words_and_order(fixture, tmp_path):
    given, expected = fixture["inputs"], fixture["expected"]
    (tmp_path / "longvale-annotations-eval.json").write_text(json.dumps(given["annotations"]))
    engine = InTurn(given["answers"])
    name = "longvale" if given["task"] == "all" else f"longvale_{given['task']}"
    summary = event_run(
        tmp_path, tmp_path / "run", engine, name, features={"video": feature_folder(tmp_path / "visual", given)}
    )
    assert [request.question for request in engine.asked] == expected["queries_in_order"]
    assert records(tmp_path / "run" / "log.jsonl") == expected["log_records"]
    missing = {record["video"] for record in records(tmp_path / "run" / "missing.jsonl")}
    assert missing == set(given["missing_video_features"]) and summary.complete


def scored(folder, annotations, log) -> Score:
    """The score of a published log against its annotations."""
    folder.mkdir()
    (folder / "annotations.json").write_text(json.dumps(annotations))
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return score_run(import_log(folder / "log.jsonl", "longvale", folder / "annotations.json", folder / "run").path)


def published(score: Score, task: str) -> dict[str, float]:
    """Official values in percent; without Java those of METEOR are not there."""
    return {metric.name: metric.official.value for metric in score.group(task).values if metric.official}


def expected_here(values: dict[str, float]) -> dict[str, float]:
    left_out = {"SODA_c", "METEOR"} if meteor_problem() else set()
    return {name: pytest.approx(value, abs=1e-4) for name, value in values.items() if name not in left_out}


def test_grounding_of_a_log_has_the_published_numbers(parity_folder, tmp_path):
    given = load(parity_folder, "longvale_grounding")
    spans = [span for _, span in given["inputs"]["answers"]]
    annotations = {"v": {"duration": 1.0, "timestamps": spans, "sentences": ["An event."] * len(spans)}}
    log = [
        {"video_id": "v", "task": "grounding", "query_id": 0, "answer": answer, "info": {"sentence_id": number}}
        for number, (answer, _) in enumerate(given["inputs"]["answers"])
    ]
    values = published(scored(tmp_path / "set", annotations, log), "grounding")
    assert values == pytest.approx(given["expected"]["metrics"], abs=TOLERANCE)


def test_dense_captions_of_a_log_have_the_published_numbers(parity_folder, tmp_path):
    given = load(parity_folder, "longvale_dense_captioning")
    for number, (case, expected) in enumerate(zip(given["inputs"]["cases"], given["expected"]["cases"], strict=True)):
        if "metrics_percent" in expected:
            score = scored(tmp_path / str(number), case["annotations"], case["logs"])
            values = {name.replace("soda", "SODA"): value for name, value in expected["metrics_percent"].items()}
            assert published(score, "captioning") == expected_here(values)
        else:
            assert expected["error"] == "KeyError"
            with pytest.raises(UserError, match="is no question of"):
                scored(tmp_path / str(number), case["annotations"], case["logs"])


def test_segment_captions_are_joined_by_sentence_where_the_published_script_pairs_positions(parity_folder, tmp_path):
    given = load(parity_folder, "longvale_segment_captioning")
    for number, (case, expected) in enumerate(zip(given["inputs"]["cases"], given["expected"], strict=True)):
        score = scored(tmp_path / str(number), case["annotations"], case["logs"])
        order = [(line["video_id"], line["info"]["sentence_id"]) for line in case["logs"]]
        annotated = [
            (video, place)
            for video, annotation in case["annotations"].items()
            for place in range(len(annotation["sentences"]))
            if any(video == name for name, _ in order)
        ]
        if order == annotated:
            values = {name: 100 * value for name, value in expected.items()}
            assert published(score, "seg_captioning") == expected_here(values)
        elif sorted(order) == sorted(annotated):
            # All there, in another order: as if it were in order, not as the published script has it.
            ordered = sorted(case["logs"], key=lambda line: (line["video_id"], line["info"]["sentence_id"]))
            again = scored(tmp_path / f"{number} ordered", case["annotations"], ordered)
            assert published(score, "seg_captioning") == published(again, "seg_captioning")
        else:
            assert "error" in expected
            assert score.group("seg_captioning").scored == len(order)
