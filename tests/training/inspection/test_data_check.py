"""The data check of a recipe's stages, with stored features in place of files."""

import json
from pathlib import Path

import numpy as np
from training_world import conversation

from vidtune.checkpoints.build import build_config
from vidtune.training.inspection.data_check import check_recipe_data


def test_what_is_wrong_with_features_and_times_is_counted_by_reason(make_recipe, tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    ids = ["good", "wide", "long", "damaged", "pickled", "missing", "late", "negative", "nan"]
    samples = [conversation("<video>\nWhat moves?", "a box.", id=name) for name in ids]
    samples[6]["meta"] = {"duration": 9.0, "token": {"<s0>": 5, "<e0>": 4}}
    samples[7]["meta"] = {"duration": 9.0, "token": {"<s0>": -1}}
    source = {"annotations": str(tmp_path / "stored.json"), "features": {"video": str(folder)}}
    Path(source["annotations"]).write_text(json.dumps(samples))
    recipe = make_recipe(data=[source], workers=0)
    tower = build_config(recipe).tower("video")
    tokens, width = tower.num_tokens(tower.input_shape()), tower.hidden_size
    for name in ("good", "late", "negative", "nan"):
        np.save(folder / f"{name}.npy", np.full((tokens, width), np.nan if name == "nan" else 1, np.float16))
    np.save(folder / "wide.npy", np.ones((tokens, width + 1), np.float16))
    np.save(folder / "long.npy", np.ones((tokens + 1, width), np.float16))
    (folder / "damaged.npy").write_bytes(b"no array")
    touched = tmp_path / "touched"
    (folder / "pickled.pkl").write_bytes(f"cos\nsystem\n(S'touch {touched}'\ntR.".encode())
    ((_, report),) = check_recipe_data(recipe, tmp_path / "out", decode=True)
    assert report.excluded == {
        "features of another tower": 2,
        "features cannot be read": 2,
        "features missing": 1,
        "times in the wrong order": 1,
        "time outside the clip": 1,
        "features not finite": 1,
    }
    assert not touched.exists()
    details = {finding.id: finding.detail for finding in report.findings}
    assert f"have width {width + 1} where the tower gives {width}" in details["stored:1"]
    assert f"holds {tokens + 1} features where the tower gives {tokens}" in details["stored:2"]
    lines = (tmp_path / "out/align/excluded.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [f"stored:{number}" for number in range(1, 9)]
