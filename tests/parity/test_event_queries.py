"""The three event tasks as the published driver asks and logs them: queries, their order, the log, what is skipped."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "evaluation"))

from event_sets import InTurn, event_run
from qa_sets import records


@pytest.fixture(scope="module")
def fixture(parity_folder):
    return json.loads((parity_folder / "evaluation" / "longvale_queries.json").read_text())


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
