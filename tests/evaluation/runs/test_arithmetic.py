"""Answers of one run are computed with one dtype, on one kind of device, by one version, or the score says so."""

import json
from typing import Any

import pytest
import torch
from qa_sets import StubEngine, counted_set, records, stub_run
from torch import nn

from vidtune.errors import UserError
from vidtune.evaluation.predict import PredictionSummary
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.run_info import Arithmetic, arithmetic_of
from vidtune.evaluation.scores.scoring import score_run

FLOAT32 = Arithmetic(device="cpu", dtype="float32")


@pytest.fixture
def ask(tmp_path):
    data = counted_set(tmp_path / "set", 6)

    def ask(limit: int | None = 3, arithmetic: Arithmetic | None = FLOAT32, **options: Any) -> PredictionSummary:
        return stub_run(data, tmp_path / "run", limit=limit, arithmetic=arithmetic, **options)

    return ask


@pytest.fixture
def versions(monkeypatch):
    """Change the versions that this process has."""
    found = {"vidtune": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "python": "3.11.7"}
    monkeypatch.setattr("vidtune.evaluation.predict.software_versions", lambda own: dict(found))
    return found


@pytest.mark.parametrize(
    ("arithmetic", "said"),
    [
        (Arithmetic(device="cpu", dtype="float16"), "--dtype float32, the others would be with float16"),
        (Arithmetic(device="cuda", dtype="float32"), "--device cpu, the others would be with cuda"),
        (None, None),
    ],
)
def test_another_dtype_or_device_asks_nothing_more_and_changes_nothing(ask, tmp_path, arithmetic, said):
    ask()
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    engine = StubEngine()
    line = rf"with {said}; go on with .*--out" if said else "with float32 on cpu, the others with what is not said"
    with pytest.raises(UserError, match=f"run: its answers are computed {line}"):
        ask(limit=None, arithmetic=arithmetic, engine=engine)
    assert not engine.asked and {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert ask(arithmetic=arithmetic).answered == 3  # nothing to ask: what is stored may be scored again
    assert ask(limit=None).answered == 6


@pytest.mark.parametrize(
    ("package", "version"), [("vidtune", "0.2.0"), ("torch", "2.12.1+cpu"), ("transformers", "5.22.0")]
)
def test_other_versions_are_refused_or_allowed_and_said(ask, versions, tmp_path, package, version):
    ask()
    old, versions[package] = versions[package], version
    with pytest.raises(UserError, match=rf"of different versions: {package} {old[:4]}.* and {version[:5]}.*--other-v"):
        ask(limit=4)
    assert RunFolder(tmp_path / "run").planned == 3
    assert ask().answered == 3
    assert ask(limit=4, other_versions=True).answered == 4
    assert ask(limit=5).answered == 5  # these versions are known to the run by now
    score = score_run(tmp_path / "run", progress=False)
    said = f"answers of several versions: {package} {old.split('+')[0]} and {version.split('+')[0]}"
    assert said in score.reasons and said in str(score)
    assert said in (tmp_path / "run/scores/rules-v1.json").read_text()


@pytest.mark.parametrize(("package", "version"), [("python", "3.12.0"), ("torch", "2.13.0+cu128")])
def test_what_changes_no_answer_is_not_asked_about(ask, versions, tmp_path, package, version):
    ask()
    versions[package] = version
    assert ask(limit=None).answered == 6
    assert RunFolder(tmp_path / "run").info.mixture is None


def test_a_run_of_an_earlier_version_goes_on_and_knows_its_arithmetic_then(ask, tmp_path):
    ask(arithmetic=None)
    path = tmp_path / "run/run.json"
    assert "arithmetic" not in json.loads(path.read_text())
    ask(limit=4)
    assert json.loads(path.read_text())["arithmetic"] == {"device": "cpu", "dtype": "float32"}
    said = "the first answers are of an unknown device and dtype, the others of float32 on cpu"
    assert RunFolder(tmp_path / "run").info.mixture == said and said in score_run(tmp_path / "run").reasons
    with pytest.raises(UserError, match="--dtype float32"):
        ask(limit=None, arithmetic=Arithmetic(device="cpu", dtype="bfloat16"))
    assert len(records(tmp_path / "run/predictions.jsonl")) == 4


def test_what_one_rank_writes_down_stays_when_another_that_began_with_it_writes(ask, tmp_path):
    ask()
    info = RunFolder(tmp_path / "run").info
    changed = info.model_copy(update={"versions": {**info.versions, "torch": "0.1"}})
    first, second = (RunFolder.open(tmp_path / "run", info) for _ in range(2))
    first.begin_asking(changed, True, other_versions=True)
    second.begin_asking(info.model_copy(update={"limit": None}), True)
    assert [one["torch"] for one in RunFolder(tmp_path / "run").info.other_versions] == ["0.1"]
    assert second.info == first.info


def test_the_dtypes_of_all_weights_are_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).bfloat16())
    assert arithmetic_of(model) == Arithmetic(device="cpu", dtype="bfloat16 and float32")
    assert arithmetic_of(model.to(torch.float16)).dtype == "float16"
