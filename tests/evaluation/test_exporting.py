"""Runs for other programs: rows, tables, logs of inspect, and published scores beside a run."""

import csv
import json
import re
import sys
import zipfile

import pytest
from event_sets import event_run, write_events
from qa_sets import StubEngine, counted_set, quiet_predict, stub_protocol, stub_run

from vidtune.cli.main import run as command
from vidtune.evaluation.export.inspect_log import write_inspect_log
from vidtune.evaluation.export.rows import COLUMNS
from vidtune.evaluation.published import differs_from, published_beside, published_lines, published_scores
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.scores.score_file import read_score
from vidtune.evaluation.scores.scoring import score_run
from vidtune.registry import BENCHMARKS, SYSTEMS

ODD = 'says "no", then\n| & 50% of_it'


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run with an odd answer, a failed question and one without a video; and its blind run."""
    folder = tmp_path_factory.mktemp("exported")
    data = counted_set(folder / "set", 9)
    (data / "videos" / "clip2.mp4").unlink()
    engine = StubEngine({"question 0?": ODD}, errors={"clip1": "cannot be read"})
    made = [stub_run(data, folder / "a", engine), stub_run(data, folder / "b", protocol=stub_protocol(blind=True))]
    for one in made:
        score_run(one.run_dir)
    return [one.run_dir for one in made]


def export(*words, code=0):
    assert command(["export", *map(str, words)]) == code


def test_csv_has_a_row_for_every_planned_question(runs, tmp_path):
    export(*runs, "--to", "csv", "--out", tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS) and len(rows) == 18
    first, second = rows[0], rows[1]
    assert (first["pred"], first["verdict"], first["answer"]) == (ODD, "wrong", "answer 0")
    assert (second["asking"], second["verdict"], second["pred"]) == ("failed", "failed", "")
    assert {row["asking"] for row in rows} == {"answered", "failed", "without file"}
    assert {row["judging"] for row in rows if row["asking"] == "answered"} == {"judged"} and second["judging"] == ""
    assert [row["index"] for row in rows[:9]] == [str(n) for n in range(9)]


def test_parquet_keeps_types_and_absent_values(runs, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    export(runs[0], "--to", "parquet", "--out", tmp_path / "rows.parquet")
    table = parquet.read_table(tmp_path / "rows.parquet")
    assert str(table.schema.field("index").type) == "int64" and str(table.schema.field("margin").type) == "double"
    rows = table.to_pylist()
    assert (rows[0]["pred"], rows[1]["pred"], rows[0]["margin"]) == (ODD, None, None)


def test_parquet_without_its_package_names_the_extra(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    export(runs[0], "--to", "parquet", "--out", tmp_path / "rows.parquet", code=2)
    assert "pip install 'vidtune[parquet]'" in capsys.readouterr().err


def test_tables_have_a_row_per_model_and_a_column_per_number(runs, capsys):
    export(*runs, "--to", "markdown")
    head, rule, *rows = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert head.count("|") == rule.count("|") == 4 and "accuracy" in head
    assert [row.split(" | ")[0] for row in rows] == ["| one", "| one, blind"]
    score = read_score(runs[0], "rules-v1").overall.value("accuracy").official
    assert f"| {100 * score.value:.1f}" in rows[0]
    export(*runs, "--to", "latex", "--no-intervals")
    text = capsys.readouterr().out
    assert text.count(r"\\") == 3 and r"\toprule" in text and "scriptsize" not in text
    assert re.search(r"^one, blind & 100\.0 & 5\.00 \\\\$", text, re.MULTILINE)


def test_marks_of_latex_and_markdown_are_escaped(runs, tmp_path, capsys):
    manifest = json.loads((runs[0] / "run.json").read_text())
    manifest["checkpoint"]["path"] = "/models/a_b|c&50%"
    copied = tmp_path / "copied"
    copied.mkdir()
    for path in ("predictions.jsonl", "questions.jsonl", "missing.jsonl", "scores", "judgements"):
        (copied / path).symlink_to(runs[0] / path)
    (copied / "run.json").write_text(json.dumps(manifest))
    export(copied, "--to", "latex")
    assert r"a\_b\textbar{}c\&50\%" in capsys.readouterr().out
    export(copied, "--to", "markdown")
    assert r"a\_b\|c&50%" in capsys.readouterr().out


def test_a_log_of_inspect_holds_every_question(runs, tmp_path):
    path = write_inspect_log(RunFolder(runs[0]), "rules-v1", tmp_path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d[-\d]*_world-qa_\w{22}\.eval", path.name)
    with zipfile.ZipFile(path) as archive:
        read = {name: json.loads(archive.read(name)) for name in archive.namelist()}
    header = read["header.json"]
    assert (header["version"], header["status"], header["eval"]["task"]) == (2, "success", "world_qa")
    assert header["eval"]["task_args"]["generation.max_new_tokens"] == 1024
    results = header["results"]
    assert (results["total_samples"], results["completed_samples"]) == (9, 3)
    accuracy = read_score(runs[0], "rules-v1").overall.value("accuracy").official
    assert results["scores"][0]["metrics"]["accuracy"]["value"] == accuracy.value
    ids = header["eval"]["dataset"]["sample_ids"]
    samples = [read[f"samples/{name}_epoch_1.json"] for name in ids]
    assert [sample["scores"].get("rules-v1", {}).get("value") for sample in samples[:4]] == ["I", None, None, "C"]
    assert samples[0]["output"]["choices"][0]["message"]["content"] == ODD
    assert [("error" in sample) for sample in samples[:3]] == [False, True, True]
    assert [one["id"] for one in read["summaries.json"]] == ids
    assert write_inspect_log(RunFolder(runs[0]), "rules-v1", tmp_path / "x.eval").read_bytes() == path.read_bytes()


def test_values_of_metrics_are_rows_scores_and_columns(tmp_path, capsys):
    run_dir = event_run(write_events(tmp_path / "set"), tmp_path / "run").run_dir
    score_run(run_dir)
    export(run_dir, "--to", "csv", "--out", tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert any(row["value.IoU"] for row in csv.DictReader(file))
    with zipfile.ZipFile(write_inspect_log(RunFolder(run_dir), "metrics", tmp_path / "log.eval")) as archive:
        header = json.loads(archive.read("header.json"))
    assert "grounding/mIoU" in header["results"]["scores"][0]["metrics"]
    capsys.readouterr()
    export(run_dir, "--to", "markdown", "--published")
    shown = capsys.readouterr().out
    assert "grounding mIoU" in shown and "metrics, protocol" in shown


def test_a_log_holds_one_run_and_rows_need_a_file(runs, tmp_path, capsys):
    export(*runs, "--to", "inspect", "--out", tmp_path / "both.eval", code=2)
    assert "a log holds one run" in capsys.readouterr().err
    export(*runs, "--to", "csv", code=2)
    assert "name it with --out" in capsys.readouterr().err


@pytest.mark.parametrize("one", published_scores(), ids=lambda one: f"{one.model}-{one.benchmark}")
def test_a_published_score_names_a_known_system_benchmark_and_number(one):
    assert one.system in SYSTEMS and one.source and one.kind in ("official", "paper", "model card", "quoted")
    benchmark = BENCHMARKS[one.benchmark]
    known = getattr(benchmark, "metrics", benchmark.judged.metrics)
    names = {metric.name if metric.type is None else f"{metric.type}/{metric.name}" for metric in known}
    assert one.values and set(one.values) <= names


def test_every_system_has_published_scores():
    assert {one.system for one in published_scores()} == set(SYSTEMS)


def test_published_scores_stand_beside_a_run_with_what_differs(tmp_path):
    benchmark = BENCHMARKS["msvd_qa"]
    data = counted_set(tmp_path / "set", 6)
    protocol = benchmark.protocol(prompt_format="stub", stop=("</s>",)).with_overrides(
        {"generation": {"max_new_tokens": 16}}, "test"
    )
    questions = BENCHMARKS["world_qa"].load(data)
    run_dir = quiet_predict(StubEngine(), questions, protocol, tmp_path / "run", system="video_panda", limit=5).run_dir
    score = score_run(run_dir)
    run = RunFolder(run_dir)
    beside = published_beside(run)
    assert beside[0].system == "video_panda" and {one.system for one in beside} > {"video_panda"}
    lines = list(differs_from(beside[0], run, score))
    assert "generation.max_new_tokens: 1024 there, 16 here" in lines
    assert "judge: gpt-3.5-turbo there, rules-v1 here" in lines
    assert any(line.startswith("questions: only the first 5 of 6") for line in lines)
    assert not any(line.startswith(("preprocessing", "generation.stop", "benchmark", "system")) for line in lines)
    assert any(line.startswith("system: ") for line in differs_from(beside[-1], run, score))
    text = "\n".join(published_lines(run, score))
    assert "accuracy: 100.00 here; 64.7 Video-Panda-7B" in text
