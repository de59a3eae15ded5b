"""Mixtures of data sets, against what the official data set class of VideoChat-Flash made of the same files."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from videochat_flash_fixture import read

from vidtune.data.tables import AnnotationTable
from vidtune.recipe.types import DataSource

CASES = read("host_side.json")["yaml_dataset"]
FILES = {"i": ("images.json", "image", "jpg", 10), "v": ("videos.json", "video", "mp4", 7), "t": ("t.jsonl", "", "", 5)}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the fixture describes."""
    folder = tmp_path_factory.mktemp("mixture")
    (folder / "media").mkdir()
    (folder / "media/0.jpg").touch()
    for name, key, suffix, count in FILES.values():
        samples = []
        for n in range(count):
            question = "<image>\nq " + "w " * n if key else "hello there " * (n + 1)
            turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "a"}]
            media = {key: f"{n}.{suffix}"} if key else {}
            samples.append({"id": f"{key or 't'}{n}", **media, "conversations": turns})
        lines = name.endswith(".jsonl")
        (folder / name).write_text("\n".join(map(json.dumps, samples)) if lines else json.dumps(samples))
    return folder


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: f"{case['file_kind']} {case['sampling_strategy']}")
def test_samples_of_a_mixture(case: dict[str, Any], mixture: Path) -> None:
    name, key, *_ = FILES[case["file_kind"]]
    entry = {"json_path": name, "sampling_strategy": case["sampling_strategy"], "data_root": "media"}
    if case["video_read_type"]:
        entry["video_read_type"] = case["video_read_type"]
    path = mixture / f"{case['file_kind']}.yaml"
    path.write_text(yaml.safe_dump({"datasets": [entry]}))
    table = AnnotationTable.open([DataSource(annotations=str(path), format="mixture")], mixture / "tables")
    assert [table.original_id(n) for n in range(len(table))] == case["ids"]
    assert table.word_lengths.tolist() == case["modality_lengths"]
    # `lengths` of the original adds what a picture or a video of 512 frames is expected to take.
    added = {"image": 128, "video": 512 * 16, "": 0}[key]
    assert (abs(table.word_lengths) + added).tolist() == case["lengths"]
    media = table[0].media
    assert [ref.path.replace(str(mixture / "media"), "<data_root>") for ref in media] == [case["path0"]][: len(media)]
    assert [ref.stream for ref in media] == ([key] if key else [])
