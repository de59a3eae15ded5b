"""Comparisons: paired bootstrap over videos, changed questions, fields that differ, and what the command prints."""

import json
from dataclasses import replace

import numpy as np
import pytest
from qa_sets import StubEngine, counted_set, stub_protocol, stub_run

from vidtune.cli.main import run as command
from vidtune.errors import UserError
from vidtune.evaluation.bootstrap import holm, paired_bootstrap
from vidtune.evaluation.metrics.base import mean_of_sums
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.manifest import manifest_differences, missing_parts
from vidtune.evaluation.scores.changed import Change
from vidtune.evaluation.scores.comparison import compare_runs, compare_with_first
from vidtune.evaluation.scores.scoring import score_run


def rows(values):
    return np.stack([np.asarray(values, dtype=float), np.ones(len(values))], axis=-1)


def test_the_bootstrap_draws_whole_videos():
    rng = np.random.default_rng(1)
    videos = [f"v{n // 20}" for n in range(400)]  # 20 videos of 20 questions, alike within a video
    second = np.repeat(rng.random(20) < 0.5, 20).astype(float)
    first = np.repeat(rng.random(20) < 0.5, 20).astype(float)
    found = paired_bootstrap(rows(first), rows(second), mean_of_sums, videos, 2000)
    alone = paired_bootstrap(rows(first), rows(second), mean_of_sums, list(range(400)), 2000)
    assert found.high - found.low > 3 * (alone.high - alone.low)
    spread = (first - second).reshape(20, 20)[:, 0].std() / 20**0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    assert found == paired_bootstrap(rows(first), rows(second), mean_of_sums, videos, 2000)


def test_p_is_small_where_one_run_is_better_in_every_video_and_1_where_both_are_equal():
    videos = [f"v{n // 2}" for n in range(40)]
    better = paired_bootstrap(rows([1, 0] * 20), rows([0, 0] * 20), mean_of_sums, videos, 999)
    assert (better.low, better.high, better.p) == (0.5, 0.5, 2 / 1000)
    same = paired_bootstrap(rows([1, 0] * 20), rows([0, 1] * 20), mean_of_sums, videos, 999)
    assert same.p == 1
    assert paired_bootstrap(rows([1, 0]), rows([0, 0]), mean_of_sums, ["a", "b"], 99) is None


def test_p_values_of_several_comparisons_are_corrected():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]


class Fragile(StubEngine):
    def answer(self, requests):
        return (replace(one, margin=0.5 if one.id == "0" else 50.0) for one in super().answer(requests))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs over 12 questions on 4 videos: all right, 3 wrong, 2 others wrong with a rule changed."""
    folder = tmp_path_factory.mktemp("compared")
    data = counted_set(folder / "set", 12)
    made = [
        stub_run(data, folder / "a", Fragile()),
        stub_run(
            data,
            folder / "b",
            Fragile({f"question {n}?": "unknown" for n in (0, 1, 2)} | {"question 5?": "It is answer 5"}),
        ),
        stub_run(
            data,
            folder / "c",
            protocol=stub_protocol(generation={"max_new_tokens": 7}),
            engine=Fragile({"question 4?": "no", "question 8?": "no"}),
        ),
    ]
    for one in made:
        score_run(one.run_dir)
    return [one.run_dir for one in made]


def test_questions_that_changed_are_listed_verdicts_first(runs):
    changed = compare_runs(*runs[:2]).changed
    assert [(one.index, one.change) for one in changed[:3]] == [(n, Change.LOST) for n in range(3)]
    assert [(one.index, one.change) for one in changed[3:]] in ([(5, Change.WORDS)], [(5, Change.LOST)])
    assert (changed[0].first.pred, changed[0].second.pred) == ("answer 0", "unknown")
    assert [one.fragile for one in changed] == [True, *[False] * (len(changed) - 1)]
    assert {one.change for one in compare_runs(runs[1], runs[0]).changed[:3]} == {Change.GAINED}
    assert compare_runs(*runs[:2]).fragile == ((1, 12), (1, 12))


def test_the_first_differing_field_of_the_manifests_is_named(runs):
    assert compare_runs(*runs[:2]).manifest == ()
    first, *others = compare_runs(runs[0], runs[2]).manifest
    assert (first.name, first.first, first.second) == ("protocol.generation.max_new_tokens", 1024, 7)
    assert others == []


def test_every_other_run_is_compared_with_the_first(runs):
    one, two = compare_with_first(runs, draws=999)
    boot = one.difference("accuracy").bootstrap
    plain = compare_runs(*runs[:2], draws=999).difference("accuracy").bootstrap
    assert (boot.low, boot.high) == (plain.low, plain.high) and boot.p >= plain.p
    assert two.difference("accuracy").values == (1.0, pytest.approx(10 / 12))
    with pytest.raises(UserError, match="two or more run folders"):
        compare_with_first(runs[:1])
    with pytest.raises(UserError, match="given twice"):
        compare_with_first([runs[0], runs[0]])


def test_rules_that_differ_come_before_versions_and_the_number_of_questions(runs):
    info = RunFolder(runs[0]).info
    rules = info.protocol.with_overrides({"reading": {"frames": 4}}, "test")
    other = info.model_copy(update={"protocol": rules, "limit": 3, "versions": {**info.versions, "torch": "0"}})
    names = [field.name for field in manifest_differences(info, other)]
    assert names == ["protocol.reading.frames", "versions.torch", "limit"]


def printed(capsys, *words, code=0):
    capsys.readouterr()
    assert command([*map(str, words)]) == code
    said = capsys.readouterr()
    return said.err if code else said.out


def test_the_command_prints_values_intervals_and_changes(runs, capsys):
    text = printed(capsys, "compare", *runs, "--draws", 999)
    assert f"  A  {runs[0]}" in text and f"  C  {runs[2]}" in text
    assert "A and B: 12 common questions, 12 scored in both, on 4 videos" in text
    assert "too narrow on 4 videos (fewer than 20): trust the other interval, not p" in text
    assert "no field of the manifests differs" in text
    assert "first difference: protocol.generation.max_new_tokens: 1024 in A, 7 in C" in text
    assert "p corrected for 2 comparisons (Holm)" in text
    assert "fragile in A: 1 of 12 greedy answers" in text
    assert "B: wrong, fragile: unknown" in text
    stored = json.loads(printed(capsys, "compare", *runs[:2], "--json"))
    assert stored[0]["changed"][0]["second"] == {"pred": "unknown", "verdict": "wrong", "fragile": True}
    assert "given twice" in printed(capsys, "compare", runs[0], runs[0], code=2)


def test_a_run_that_is_not_whole_says_what_it_lacks(runs, tmp_path):
    assert missing_parts(RunFolder(runs[0])) == []
    data = counted_set(tmp_path / "set", 12)
    half = stub_run(data, tmp_path / "half", StubEngine(errors={"clip1": "cannot be read"})).run_dir
    records = (half / "predictions.jsonl").read_text().splitlines(keepends=True)
    (half / "predictions.jsonl").write_text("".join(line for line in records if "clip2" not in line))
    manifest = json.loads((half / "run.json").read_text())
    manifest["protocol"]["generation"]["max_new_tokens"] = 9
    (half / "run.json").write_text(json.dumps(manifest))
    lines = missing_parts(RunFolder(half))
    assert "it was changed" in lines[0]
    assert [line.split()[-1] for line in lines[1:3]] == ["yet", "failed"]
    assert lines[-1] == "no score: `vidtune judge` computes it"
