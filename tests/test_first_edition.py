"""What the first edition of this package wrote opens still: checkpoints, features, runs, scores, recipes.

``first_edition/`` holds small results of every kind, written by one fixed commit (its README names it), with the
numbers that this commit made of them. Everything is done by the command line, in a copy of that folder.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from written_files import WRITTEN, unpack

# What is not reachable by the command line; the only lines to change when modules move.
from vidtune.cli.main import run as run_command


def open_checkpoint(place: str, base: Sequence[str], towers: Mapping[str, str]) -> tuple[Any, Any]:
    """Model and processor, as transformers has them: ``model(**processor(text, images=..., videos=...))``."""
    from vidtune.checkpoints.load import load_checkpoint

    loaded = load_checkpoint(place, base=list(base), towers=dict(towers))
    return loaded.model, loaded.processor


EXPECTED: dict[str, Any] = json.loads((WRITTEN / "expected.json").read_text())
TENSORS = load_file(WRITTEN / "expected.safetensors")
QUESTION = "What moves?"
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory: a copy of all that was written, as it was when it was."""
    place = unpack(tmp_path_factory.mktemp("first") / "edition")
    for path in (place / "world").rglob("*"):  # stored features go by content and time of change
        os.utime(path, (EXPECTED["mtime"], EXPECTED["mtime"]))
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name, value in {"DATA_ROOT": "world", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}.items():
            patch.setenv(name, value)
        patch.delenv("EVAL_ROOT", raising=False)
        torch.set_num_threads(1)
        yield place
    torch.set_num_threads(threads)


class Command:
    """Runs commands, and gives what they printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: object, code: int = 0) -> str:
        self._capsys.readouterr()
        found = run_command([str(word) for word in words])
        said = self._capsys.readouterr()
        assert found == code, said.err
        return said.err if code else said.out


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def lines(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


# Checkpoints: our own, whole and as bundles; official ones, LoRA runs, a projector, a stack of them


@pytest.mark.parametrize("name", EXPECTED["logits"])
def test_a_checkpoint_gives_its_logits(name: str) -> None:
    about = EXPECTED["logits"][name]
    model, processor = open_checkpoint(about["checkpoint"], about["base"], about["towers"])
    assert sum(parameter.numel() for parameter in model.parameters()) == about["parameters"]
    for kind, media in about["media"].items():
        with torch.no_grad():
            logits = model(**processor(QUESTION, **media)).logits[0]
        wanted = TENSORS[f"logits|{name}|{kind}"]
        torch.testing.assert_close(logits[-len(wanted) :].float(), wanted, **CLOSE, msg=f"{name}: {kind}")


@pytest.mark.parametrize(
    "name",  # images: by `make whole`; what every checkpoint makes of them is in its logits, above
    [pytest.param(name, marks=pytest.mark.whole if name.endswith("|image") else ()) for name in EXPECTED["answers"]],
)
def test_a_checkpoint_answers_the_same(name: str, command: Command) -> None:
    about = EXPECTED["answers"][name]
    said = command("answer", *about["words"], "--device", "cpu")
    assert [json.loads(line)["answer"] for line in said.splitlines()] == about["answers"]


def test_a_bundle_whose_base_has_moved_says_so(command: Command) -> None:
    said = command("answer", "runs/base_moved/tune/final", "--question", QUESTION, code=2)
    assert "--model-base" in said and said.count("\n") == 1


@pytest.mark.parametrize("name", ["bundle_on_bundle", "official_video_llava", "lora_video_llava"])
def test_a_checkpoint_is_converted_to_a_whole_one(name: str, command: Command, tmp_path: Path) -> None:
    about = EXPECTED["logits"][name]
    base = [word for below in about["base"] for word in ("--model-base", below)]
    command("convert", about["checkpoint"], tmp_path / "whole", *base)
    model, processor = open_checkpoint(str(tmp_path / "whole"), [], {})
    kind, media = next(iter(about["media"].items()))
    with torch.no_grad():
        logits = model(**processor(QUESTION, **media)).logits[0]
    wanted = TENSORS[f"logits|{name}|{kind}"]
    torch.testing.assert_close(logits[-len(wanted) :].float(), wanted, **CLOSE)


def test_lora_results_are_written_in_the_official_layout_again(command: Command, tmp_path: Path) -> None:
    command("convert", "runs/on_parts/tune/final", tmp_path / "lora", "--to", "official_lora")
    for file in ("adapter_model.bin", "non_lora_trainables.bin"):
        ours = torch.load(tmp_path / "lora" / file, weights_only=True)
        theirs = torch.load(Path("published/video_llava/lora") / file, weights_only=True)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


# Features


def test_stored_features_are_intact_and_found_again(command: Command) -> None:
    about = EXPECTED["features"]
    assert command("features", "verify", "--store", "store").count(" 0 problems") == len(about["list"])
    said = command("features", "extract", "--store", "store", *about["extract"]["words"], "--dtype", "bfloat16")
    counts = re.compile(r"(\w+): ([\d,]+) stored, ([\d,]+) found")
    before = {stream: stored for stream, stored, _ in counts.findall(about["extract"]["said"])}
    assert {stream: found for stream, _, found in counts.findall(said)} == before
    assert {stored for _, stored, _ in counts.findall(said)} == {"0"}
    listed = [command("features", "list", "--store", "store").splitlines(), about["list"]]
    found, wanted = ([line.split(",")[0] for line in lines_] for lines_ in listed)  # name and number of items
    assert found == wanted


def test_stored_features_are_what_they_were() -> None:
    found = {}
    for path in Path("store").rglob("*.safetensors"):
        collection, *below = path.relative_to("store").parts
        for item, values in load_file(path).items():
            found[f"features|{collection}|{item if below[0] == 'shards' else path.stem}"] = values
    wanted = {name: values for name, values in TENSORS.items() if name.startswith("features|")}
    assert found.keys() == wanted.keys()
    assert all(torch.equal(values, wanted[name]) for name, values in found.items())


def test_loose_features_are_imported_again_beside_the_old_ones(command: Command) -> None:
    said = command("features", "import", "world/loose/video", "--store", "store", "--name", "video_loose")
    assert "0 imported, 3 found, 0 refused" in said


# Training


@pytest.mark.parametrize("name", EXPECTED["runs"])
def test_a_stopped_run_goes_on_to_the_same_weights(name: str, command: Command) -> None:
    about = EXPECTED["runs"][name]
    stage = Path(f"runs/{name}") / about["stage"]
    assert not (stage / "final").exists()
    assert list(stage.glob("checkpoint-*/state.json"))
    started = lines(stage / "log.jsonl")
    command("train", about["recipe"], "--out", f"runs/{name}", "--device", "cpu")
    found = lines(stage / "log.jsonl")
    assert found[: len(started)] == started
    assert [line["step"] for line in found] == list(range(1, len(about["losses"]) + 1))
    assert [line["loss"] for line in found] == pytest.approx(about["losses"], rel=1e-4)
    assert [line["id"] for line in lines(stage / "excluded.jsonl")] == about["excluded"]
    prefix = f"run|{name}|"
    wanted = {key.removeprefix(prefix): tensor for key, tensor in TENSORS.items() if key.startswith(prefix)}
    for file in {key.split("|")[0] for key in wanted}:
        tensors = load_file(stage / "final" / file)
        names = [key.split("|")[1] for key in wanted if key.split("|")[0] == file]
        assert sorted(tensors) == sorted(names)
        for weight in names:
            torch.testing.assert_close(tensors[weight], wanted[f"{file}|{weight}"], **CLOSE, msg=f"{file}: {weight}")


@pytest.mark.parametrize("name", ["longvale", "on_parts"])
def test_a_finished_run_is_not_repeated(name: str, command: Command) -> None:
    finals = [*Path(f"runs/{name}").glob("*/final/*.safetensors")]
    before = {path: path.stat().st_mtime_ns for path in finals}
    assert "trained: " in command("train", f"recipes/{name}.yaml", "--out", f"runs/{name}", "--device", "cpu")
    assert {path: path.stat().st_mtime_ns for path in finals} == before


def test_another_recipe_is_refused_with_what_differs(command: Command) -> None:
    said = command("train", "recipes/longvale.yaml", "--out", "runs/longvale", "seed=7", code=2)
    assert "another recipe: seed was 42 and is 7" in said


# Evaluation


def numbers(value: Any, path: str = "") -> dict[str, float]:
    """All numbers of a score by their place, without intervals: the score names the method, which is another today."""
    if isinstance(value, Mapping):
        value = {str(item.get("name", key)) if isinstance(item, dict) else key: item for key, item in value.items()}
    elif isinstance(value, list):
        value = {str(n): item for n, item in enumerate(value)}
    if isinstance(value, dict):
        kept = {name: item for name, item in value.items() if name not in ("low", "high")}
        return {key: number for name, item in kept.items() for key, number in numbers(item, f"{path}/{name}").items()}
    return {path: value} if isinstance(value, int | float) and not isinstance(value, bool) else {}


def test_a_run_killed_half_way_goes_on_to_the_same_answers_and_scores(command: Command) -> None:
    words = EXPECTED["evaluate"]["words"]
    assert len(Path("evals/half/world_qa/predictions.jsonl").read_bytes().splitlines()) == 4
    said = command("evaluate", *words, "--out", "evals/half", "--device", "cpu")
    assert "6 of 8 questions answered" in said
    for file in ("predictions.jsonl", "merge.jsonl", "missing.jsonl"):
        found = [
            {key: value for key, value in line.items() if key != "margin"}
            for line in lines(f"evals/half/world_qa/{file}")
        ]
        assert found == lines(f"evals/done/world_qa/{file}")
    scores = [json.loads(Path(f"evals/{run}/world_qa/scores/rules-v1.json").read_text()) for run in ("half", "done")]
    found, before = (numbers(score) for score in scores)
    assert {name: found[name] for name in before} == pytest.approx(before)  # there are further numbers since
    assert lines("evals/half/world_qa/sessions.jsonl")[-1]["to_ask"] == 3


@pytest.mark.parametrize("forget", [False, True])
def test_a_complete_run_has_its_score(forget: bool, command: Command) -> None:
    folder = Path("evals/done/world_qa")
    before = json.loads((folder / "scores/rules-v1.json").read_text())
    verdicts = lines(folder / "judgements/rules-v1.jsonl")
    if forget:
        shutil.rmtree(folder / "judgements")
    shutil.rmtree(folder / "scores")
    command("judge", folder)
    assert numbers(json.loads((folder / "scores/rules-v1.json").read_text())) == pytest.approx(numbers(before))
    assert lines(folder / "judgements/rules-v1.jsonl") == verdicts
    assert before["overall"]["yes"] == 3


@pytest.mark.parametrize("run", ["evals/events/world_events-without-speech", "evals/imported-world_events"])
def test_a_measured_run_has_its_scores(run: str, command: Command) -> None:
    folder = Path(run)
    before = json.loads((folder / "scores/metrics.json").read_text())
    (folder / "measurements.jsonl").unlink()
    shutil.rmtree(folder / "scores")
    command("judge", folder)
    after = json.loads((folder / "scores/metrics.json").read_text())
    for task, again in zip(before["tasks"], after["tasks"], strict=True):
        assert {**again, "metrics": ()} == {**task, "metrics": ()}
        found = {metric["name"]: metric for metric in again["metrics"]}
        for metric in task["metrics"]:
            if metric["name"] not in before["left_out"]:  # for want of Java
                assert numbers(found[metric["name"]]) == pytest.approx(numbers(metric)), metric["name"]


def test_a_complete_run_is_not_asked_again(command: Command) -> None:
    words = EXPECTED["evaluate_events"]["words"]
    command("evaluate", *words, "--out", "evals/events", "--device", "cpu")
    assert lines("evals/events/world_events-without-speech/sessions.jsonl")[-1]["to_ask"] == 0


def test_published_answers_are_imported_again(command: Command) -> None:
    folder = Path("evals/imported-world_events")
    before = lines(folder / "predictions.jsonl")
    command("judge", "evals/imported.jsonl", "--benchmark", "world_events", "--data", "world/eval/events")
    assert lines(folder / "predictions.jsonl") == before


def test_a_page_is_made_of_a_run(command: Command, tmp_path: Path) -> None:
    command("report", "evals/done/world_qa", "--out", tmp_path / "page.html", "--frames", 1)
    assert "What moves?" in (tmp_path / "page.html").read_text()


# Recipes


def assert_holds(found: Any, wanted: Any, where: str) -> None:
    """All that was there is there with its value; keys may have been added."""
    if isinstance(wanted, dict):
        assert isinstance(found, dict), where
        for key, value in wanted.items():
            assert key in found, f"{where}.{key}"
            assert_holds(found[key], value, f"{where}.{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
            assert_holds(one, other, f"{where}.{number}")
    else:
        assert found == wanted, where


SHIPPED = sorted(path.name.removesuffix(".resolved.yaml") for path in (WRITTEN / "shipped").glob("*.resolved.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_copy_of_a_shipped_recipe_means_the_same(name: str, command: Command) -> None:
    wanted = yaml.safe_load(Path(f"shipped/{name}.resolved.yaml").read_text())
    assert_holds(yaml.safe_load(command("recipes", "show", f"shipped/{name}.yaml", "--resolved")), wanted, name)


@pytest.mark.parametrize("run", ["align_tune", "distilled", "longvale", "on_parts", "base_moved"])
def test_the_recipe_of_a_run_is_read(run: str, command: Command) -> None:
    wanted = yaml.safe_load(Path(f"runs/{run}/recipe.yaml").read_text())
    assert_holds(yaml.safe_load(command("recipes", "show", f"runs/{run}/recipe.yaml", "--resolved")), wanted, run)
