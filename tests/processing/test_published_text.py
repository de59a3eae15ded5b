"""Prompts, times, labels and cuts against what the official code makes of the same samples.

The prompt formats are written out here as the system that publishes them defines them. Its ids have one placeholder
for a medium, -200.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from vidtune.data.conversations import read_conversations
from vidtune.processing.batch import IGNORED
from vidtune.processing.prompts.cutting import Cut
from vidtune.processing.prompts.known import captions, with_roles
from vidtune.processing.times import mark_times, time_rule
from vidtune.processing.tokenizer import ChunkTokenizer, load_tokenizer
from vidtune.processing.tokenizing import Placeholder, encode

FOLDER = Path(os.environ.get("VIDTUNE_PARITY", Path(__file__).parents[1] / "parity" / "fixtures")) / "longvale"
SYSTEM_LINE = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
V1 = with_roles("v1", SYSTEM_LINE, cut=Cut(r"From \d+ to \d+,", rejoined=True))
PLAIN = captions("plain", ("video", "image"), after_tag="\n")
PLACEHOLDER = -200

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no longvale fixtures in this folder")


def fixture(name: str) -> Any:
    return json.loads((FOLDER / name).read_text()) if FOLDER.is_dir() else {}


CASES = fixture("text_cases.json").get("text_cases", [])
RESULTS = fixture("config.json").get("results", {})


@pytest.fixture(scope="module", params=[True, False], ids=["legacy", "newer"])
def tokenizer(request: pytest.FixtureRequest) -> ChunkTokenizer:
    return ChunkTokenizer(load_tokenizer(FOLDER), legacy=request.param)


def number_of(case: dict[str, Any]) -> str:
    return f"{CASES.index(case)}-{case['case']}-{case['sample']['id']}"


@pytest.mark.parametrize("case", CASES, ids=number_of)
def test_ids_and_labels_equal_the_official_ones(case: dict[str, Any]) -> None:
    (record,) = read_conversations(Path("train.json"), json.dumps([case["sample"]]).encode())
    ((stream, path),) = record.media
    assert path is None
    encoded = encode(
        mark_times(record.turns, record.times, "percent"),
        PLAIN if "plain" in case["case"] else V1,
        ChunkTokenizer(load_tokenizer(FOLDER), legacy=case["legacy"]),
        [Placeholder(stream, ((PLACEHOLDER, 1),))],
        streams=("image", "video"),
        max_length=case["model_max_length"],
    )
    assert encoded.input_ids.tolist() == case["input_ids"]
    assert encoded.labels.tolist() == case["labels"]
    assert encoded.truncated == (case["model_max_length"] < 2048)
    assert (encoded.masked is None) == any(label != IGNORED for label in case["labels"])


@pytest.mark.parametrize("case", RESULTS.get("timestamp_conversion", []), ids=str)
def test_moments_are_written_as_the_official_code_does(case: dict[str, Any]) -> None:
    assert time_rule("percent").write(case["seconds"], case["duration"]) == case["text"]


@pytest.mark.parametrize("case", RESULTS.get("inference_prompts", []), ids=lambda case: case["task"])
def test_questions_equal_the_official_prompts(case: dict[str, Any], tokenizer: ChunkTokenizer) -> None:
    (record,) = read_conversations(
        Path("train.json"),
        json.dumps([{"id": "a", "conversations": [{"from": "human", "value": case["query"]}]}]).encode(),
    )
    prompt = "".join(piece.text for piece in V1.render(record.turns, open_answer=True))
    encoded = encode(
        record.turns,
        V1,
        tokenizer,
        [Placeholder("video", ((PLACEHOLDER, 1),))],
        streams=("image", "video"),
        supervise=False,
        open_answer=True,
    )
    assert prompt == case["prompt"]
    assert encoded.input_ids.tolist() == case["input_ids_legacy" if tokenizer.legacy else "input_ids"]
