"""The data check of a recipe's stages, with stored features in place of files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from synthetic_clips import write_clip
from training_world import conversation

from vidtune.checkpoints.build import build_config
from vidtune.cli.main import run as run_command
from vidtune.errors import UserError
from vidtune.processing.tokenizer import load_tokenizer
from vidtune.recipe.files import dump_recipe
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
    tasks: set[str] = set()
    ((stage, report),) = check_recipe_data(
        recipe, tmp_path / "out", decode=True, progress=lambda task, done, total: tasks.add(task)
    )
    assert f"{stage.name}: samples" in tasks and all(task.startswith(f"{stage.name}: ") for task in tasks)
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


def data_of(tmp_path: Path, files: list[str]) -> list[dict[str, str]]:
    """Data of one sample for each file; only those named ``good`` exist."""
    media = tmp_path / "media"
    media.mkdir(exist_ok=True)
    write_clip(media / "good.mp4")
    samples = [conversation("<video>\nWhat?", "a box.", id=str(n), video=name) for n, name in enumerate(files)]
    (tmp_path / "annotations.json").write_text(json.dumps(samples))
    return [{"annotations": str(tmp_path / "annotations.json"), "media": str(media)}]


@pytest.mark.parametrize(
    ("files", "settings", "reason"),
    [
        (["gone.mp4"] * 2, {}, "stage 'align': none of its 2 samples can be used"),
        (["good.mp4", "gone.mp4"], {}, None),  # ten may always be left out
        (["good.mp4"] * 30 + ["gone.mp4"] * 11, {}, "11 of 41 samples cannot be used, more than max_excluded (0.05)"),
        (["good.mp4"] * 30 + ["gone.mp4"] * 11, {"max_excluded": 0.5}, None),
    ],
)
def test_data_that_training_would_refuse_end_with_exit_code_2(
    files, settings, reason, make_recipe, tmp_path: Path, capsys
) -> None:
    recipe = make_recipe(data=data_of(tmp_path, files), workers=0, **settings)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    command = ["data", "check", str(tmp_path / "recipe.yaml"), "--stage", "align"]
    assert run_command(command) == (0 if reason is None else 2)
    shown = capsys.readouterr()
    assert shown.out.startswith(f"align: {len(files)} samples, ") and "unusable: missing file" in shown.out
    assert (reason is None and not shown.err) or (reason in shown.err and shown.err.count("\n") == 1)
    if reason is not None:
        run_folder = str(tmp_path / "run")
        assert run_command([*command, "--out", run_folder]) == 2
        assert run_command(["train", str(tmp_path / "recipe.yaml"), "--out", run_folder, "--quiet"]) == 2


@pytest.mark.parametrize("files", [["good.mp4"], ["good.mp4", "gone.mp4"], ["gone.mp4"]])
def test_what_was_recorded_is_said_with_what_training_does(files, make_recipe, tmp_path: Path, capsys) -> None:
    recipe = make_recipe(data=data_of(tmp_path, files), workers=0)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    out = tmp_path / "run"
    run_command(["data", "check", str(tmp_path / "recipe.yaml"), "--out", str(out)])
    shown, number = capsys.readouterr().out, len(files) - 1
    if files == ["good.mp4"]:
        assert "recorded in" not in shown
        return
    assert f"first: annotations:{number} ({number}): " in shown
    does = "training goes on without them" if "good.mp4" in files else "training refuses this stage"
    assert does in shown and "run this check again" in shown
    (line,) = map(json.loads, (out / "align/excluded.jsonl").read_text().splitlines())
    assert (line["id"], line["original_id"]) == (f"annotations:{number}", str(number))


def test_a_refused_check_leaves_no_lock(make_recipe, tmp_path: Path) -> None:
    (tmp_path / "align/final").mkdir(parents=True)  # results without a recipe
    with pytest.raises(UserError, match="choose another output folder"):
        list(check_recipe_data(make_recipe(workers=0), tmp_path))
    assert not (tmp_path / ".lock").exists()


def test_a_mixture_is_checked_set_by_set(make_recipe, tmp_path: Path, capsys) -> None:
    data_of(tmp_path, ["good.mp4"] * 3 + ["gone.mp4"])
    absent = "  - json_path: https://example.org/more.jsonl\n"
    sets = "datasets:\n  - {json_path: annotations.json, data_root: media, sampling_strategy: 'first:50%'}\n" + absent
    (tmp_path / "mix.yaml").write_text(sets)
    source = {"annotations": str(tmp_path / "mix.yaml"), "format": "mixture"}
    recipe = make_recipe(data=[source], workers=0)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    command = ["data", "check", str(tmp_path / "recipe.yaml"), "--stage", "align"]
    assert run_command(command) == 2
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [
        f"align: {tmp_path}/mix.yaml has 1 of its 2 data sets here",
        "  there: annotations.json: first:50%",
        "  not there: https://example.org/more.jsonl: no folder stands for https://example.org/more.jsonl; "
        "name one in roots",
    ]
    assert len(shown.err.splitlines()) == 1 and "lacks 1 of its 2 data sets" in shown.err
    assert run_command([*command, "stages.align.data.0.missing_sets=leave_out"]) == 0
    assert "align: 2 samples, 1 file, 0 unusable" in capsys.readouterr().out


def test_all_bad_records_are_named_by_id_and_line_and_single_frames_are_said(
    make_recipe, tmp_path: Path, capsys
) -> None:
    data_of(tmp_path, ["good.mp4"])
    rows = ["id,video,question,answer,end,note", "a,good.mp4,What?,A box.,,", "b,good.mp4,What?,A box.,0.01,"]
    rows += [f"bad{number},good.mp4,What?,,,x" for number in range(9)]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    (tmp_path / "b.jsonl").write_text('{"id": "half", "messages": [\n{"id": [3], "messages": "\\ud800"}\n')
    data = [{"annotations": str(tmp_path / name), "media": str(tmp_path / "media")} for name in ("a.csv", "b.jsonl")]
    (tmp_path / "recipe.yaml").write_text(dump_recipe(make_recipe(data=data, workers=0, max_excluded=1)))
    assert run_command(["data", "check", str(tmp_path / "recipe.yaml"), "--stage", "align"]) == 2
    shown = capsys.readouterr()
    for number in range(9):
        assert f"a:{number + 2} (bad{number}): line {number + 4}: has 'question', but no answer" in shown.out
    assert "b:0: line 1: not valid JSON" in shown.out and "b:1 ([3]): line 2: key 'messages'" in shown.out
    assert "1 kept: clip of one frame; first: a:1 (b): " in shown.out
    assert shown.err.count("\n") == 1 and f"none of the samples of {tmp_path}/b.jsonl can be used" in shown.err


def test_what_a_recipe_names_and_nobody_can_open_is_said_with_recipe_and_key(
    make_recipe, tmp_path: Path, capsys
) -> None:
    (tmp_path / "a.json").write_text(json.dumps([conversation("Hello.", "hello.")]))
    path, data = tmp_path / "recipe.yaml", [{"annotations": str(tmp_path / "a.json")}]
    path.write_text(dump_recipe(make_recipe(data=data, workers=0)))
    far_too_long = "x" * 5000

    def refused(*changes: str) -> str:
        assert run_command(["data", "check", str(path), *changes]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {path}: ") and len(line) < 600
        return line

    assert "tokenizer: nowhere: no such file or folder" in refused("tokenizer=nowhere")
    for key in ("tokenizer", "stages.align.name", "stages.align.data.0.annotations", "stages.align.data.0.media"):
        assert "xxx...: File name too long" in refused(f"{key}={far_too_long}")
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(2**40)  # its hash would take an hour
    assert run_command(["data", "check", str(path)]) == 2
    assert "a.json: has 1,099,511,627,776 bytes, more than" in capsys.readouterr().err


def test_half_a_character_in_the_settings_of_a_tokenizer_is_named_before_anything_is_written(
    make_recipe, tmp_path: Path
) -> None:
    folder = shutil.copytree(str(make_recipe().tokenizer), tmp_path / "tokenizer")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "strange": ["a\ud800"]}))
    with pytest.raises(
        UserError, match=r"tokenizer_config\.json: half a character stands in it, at the end of .*a.ud800"
    ):
        load_tokenizer(folder)
