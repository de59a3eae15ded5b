"""What is damaged, and the command that a user gives it to."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from material import (
    SOUND,
    native,
    official,
    question_set,
    sharded,
    write_features,
    write_media,
    write_recipe,
    write_samples,
    write_sound,
)
from training_world import conversation

from vidtune.cli.main import run

CHECK, DRY = ("data", "check", "recipe.yaml"), ("train", "recipe.yaml", "--dry-run")
ANSWER = ("--question", "What?", "--max-new-tokens", "2", "--media-timeout", "15")


@dataclass(frozen=True)
class Target:
    """Files that are damaged one at a time, and commands that read them.

    Args:
        build: writes whole files into an empty folder, in which the commands run.
        damaged: patterns of the files, one of which is damaged.
        commands: one of them is given the files; each succeeds as they are.
        unit: name by which an error may call the files instead, such as that of a checkpoint's folder.
        share: how often this target has its turn.
    """

    build: Callable[[Path], None]
    damaged: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]
    unit: str | None = None
    share: int = 1

    def files(self, folder: Path) -> list[Path]:
        found = {path for pattern in self.damaged for path in folder.glob(pattern) if path.is_file()}
        found = {path for path in found if path.suffix != ".lock"}
        return sorted(found)


def media(folder: Path) -> None:
    samples = write_media(folder)
    for sample in samples:
        (medium,) = (sample[key] for key in ("video", "image") if key in sample)
        write_samples(folder, [sample, conversation("Hello.", "hello.")], f"of-{medium}.json")
        data = [{"annotations": f"of-{medium}.json", "media": "media"}]
        write_recipe(folder, f"of-{medium}.yaml", data=data)


def sound(folder: Path) -> None:
    write_media(folder)
    write_sound(folder / "media/tone.wav")
    write_samples(
        folder, [conversation("<video>\nWhat?", "a tone.", video="film.mp4"), conversation("Hello.", "hello.")]
    )
    write_recipe(folder, system=SOUND)


def asked_media(folder: Path) -> None:
    write_media(folder)
    native(folder)


def annotations(folder: Path) -> None:
    samples = write_media(folder)
    write_samples(folder, [*samples[:2], samples[-1], conversation("Hello.", "hello.")])
    write_recipe(folder)


def lines_of_annotations(folder: Path) -> None:
    samples = write_media(folder)
    write_samples(folder, [*samples[:2], samples[-1], conversation("Hello.", "hello.")], "train.jsonl")
    write_recipe(folder, data=[{"annotations": "train.jsonl", "media": "media"}])


def mixture(folder: Path) -> None:
    samples = write_media(folder)
    write_samples(folder, samples[:2], "first.json")
    write_samples(folder, samples[-2:], "second.jsonl")
    sets = [
        {"json_path": "first.json", "data_root": "media", "media_type": "video", "frame_rate": 2},
        {"json_path": "second.jsonl", "data_root": "media", "sampling_strategy": "first:50%"},
    ]
    (folder / "mix.yaml").write_text(yaml.safe_dump({"datasets": sets}))
    write_recipe(folder, data=[{"annotations": "mix.yaml", "format": "mixture"}])


def features(folder: Path) -> None:
    names = write_features(folder / "features/video")
    samples = [conversation("<video>\nWhat?", "it.", video=f"{Path(name).stem}.mp4") for name in names]
    write_samples(folder, samples)
    (folder / "media").mkdir()
    data = [{"annotations": "train.json", "media": "media", "features": {"video": "features/video"}}]
    write_recipe(folder, data=data)


def store(folder: Path) -> None:
    write_media(folder)
    write_samples(folder, [conversation("<video>\nWhat?", "it.", video=name) for name in ("clip.mp4", "clip.webm")])
    write_recipe(folder)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "features": "store"}, sort_keys=False))
    assert run(["features", "extract", "recipe.yaml", "--store", "store", "--workers", "1"]) == 0


def interrupted(folder: Path) -> None:
    """A run whose last step is not made: training goes on from its checkpoints."""
    samples = write_media(folder)
    write_samples(folder, [*samples[:2], samples[-1], conversation("Hello.", "hello.")])
    write_recipe(folder, save_every=1, keep=2, max_steps=3, epochs=9)
    assert run(["train", "recipe.yaml", "--out", "run", "--quiet", "--device", "cpu"]) == 0
    shutil.rmtree(folder / "run/align/final")


def questions(folder: Path) -> None:
    native(folder)
    place = question_set(folder / "eval")
    for file in ("test_q.json", "test_a.json"):
        shutil.copy(place / file, folder / file)


def evaluated(folder: Path) -> None:
    questions(folder)
    limits = ("--workers", "0", "--protocol", "generation={max_new_tokens: 2}")
    for out in ("one", "other"):
        command = ["evaluate", "model", "--benchmark", "msvd_qa", "--data", "eval", "--out", out, *limits]
        assert run(command) == 0
    (folder / "log.jsonl").write_text(
        "".join(
            json.dumps({"video_name": name, "question": "How is it?", "id": name, "answer": name, "pred": name}) + "\n"
            for name in ("dark", "light")
        )
    )


EVALUATE = ("evaluate", "model", "--benchmark", "msvd_qa", "--data", "eval", "--out", "out", "--workers", "0")

TARGETS: dict[str, Target] = {
    "media": Target(
        media,
        ("media/*", "media/frames/*"),
        (
            ("data", "check", "of-{medium}.yaml", "--decode"),
            ("data", "check", "of-{medium}.yaml"),
            ("data", "check", "of-{medium}.yaml", "--decode", "stages.0.workers=2"),
        ),
        share=8,
    ),
    "sound": Target(sound, ("media/film.mp4",), ((*CHECK, "--decode"), CHECK), share=2),
    "asked_media": Target(
        asked_media,
        ("media/*", "media/frames/*"),
        (("answer", "model", "--{kind}", "media/{medium}", *ANSWER),),
        share=2,
    ),
    "annotations": Target(annotations, ("train.json",), (CHECK,), share=4),
    "annotation_lines": Target(lines_of_annotations, ("train.jsonl",), (CHECK,), share=3),
    "mixture": Target(mixture, ("mix.yaml", "first.json", "second.jsonl"), (CHECK, CHECK, DRY)),
    "recipe": Target(
        annotations,
        ("recipe.yaml",),
        (CHECK, CHECK, CHECK, DRY, ("train", "recipe.yaml", "--out", "run", "--quiet")),
        share=5,
    ),
    "tokenizer": Target(annotations, ("tokenizer/*",), (CHECK,), "tokenizer", share=2),
    "native": Target(
        native,
        ("model/*",),
        (("convert", "model", "--explain"), ("convert", "model", "out"), ("answer", "model", *ANSWER)),
        "model",
        share=4,
    ),
    "sharded": Target(
        sharded,
        ("model/*.safetensors", "model/*.json"),
        (("convert", "model", "--explain"), ("convert", "model", "out")),
        "model",
        share=2,
    ),
    "official": Target(
        official, ("model/*",), (("convert", "model", "--explain"), ("convert", "model", "out")), "model", share=3
    ),
    "resume": Target(
        interrupted,
        ("run/*", "run/align/*", "run/align/checkpoint-*/*", "run/align/checkpoint-*/.metadata", "run/tables/*"),
        (("train", "recipe.yaml", "--out", "run", "--quiet", "--device", "cpu"),),
        "run",
        share=4,
    ),
    "features": Target(
        features,
        ("features/video/*",),
        ((*CHECK, "--decode"), ("features", "import", "features/video", "--store", "store", "--name", "mine")),
        share=4,
    ),
    "store": Target(
        store,
        ("store/*/*", "store/*/shards/*"),
        (
            ("features", "verify", "--store", "store"),
            ("features", "list", "--store", "store"),
            ("features", "extract", "recipe.yaml", "--store", "store", "--workers", "1"),
        ),
        "store",
        share=2,
    ),
    "questions": Target(
        questions,
        ("eval/*/*/*.json", "eval/*/*/videos/*"),
        (("benchmarks", "check", "msvd_qa", "--data", "eval"), EVALUATE),
        share=2,
    ),
    "run": Target(
        evaluated,
        ("one/*/*", "one/*/*/*"),
        (
            ("judge", "one/msvd_qa"),
            ("report", "one/msvd_qa", "other/msvd_qa"),
            ("compare", "one/msvd_qa", "other/msvd_qa"),
            ("export", "one/msvd_qa", "--to", "markdown"),
            ("export", "one/msvd_qa", "--to", "csv", "--out", "rows.csv"),
            (*EVALUATE[:-4], "--out", "one", "--workers", "0", "--protocol", "generation={max_new_tokens: 2}"),
        ),
        "msvd_qa",
        share=4,
    ),
    "run_media": Target(evaluated, ("eval/*/*/videos/*",), (("report", "one/msvd_qa", "other/msvd_qa"),)),
    "log": Target(
        evaluated, ("log.jsonl",), (("judge", "log.jsonl", "--benchmark", "msvd_qa", "--data", "eval"),), share=2
    ),
}
