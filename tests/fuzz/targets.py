"""What is damaged, and the command that a user gives it to."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from material import (
    SOUND,
    SYSTEM,
    forms_of_annotations,
    low_rank,
    misplaced,
    native,
    official,
    own_test_set,
    published_low_rank,
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
        units: names by which an error may call the files instead, such as that of a checkpoint's folder.
        share: how often this target has its turn.
        refused: whole files are refused, too.
        inside: patterns of files of which none may be read outside this folder, wherever links lead.
    """

    build: Callable[[Path], None]
    damaged: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]
    units: tuple[str, ...] = ()
    share: int = 1
    refused: bool = False
    inside: tuple[str, ...] = ()

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


def forms(folder: Path) -> None:
    for name in forms_of_annotations(folder):
        write_recipe(folder, f"of-{name}.yaml", data=[{"annotations": f"forms/{name}", "media": "media"}])


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
    tracked = {**SYSTEM, "trackers": ["tensorboard"]}
    write_recipe(folder, system=tracked, save_every=1, keep=2, max_steps=3, epochs=9)
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
MINE = ("--benchmark", "mine.jsonl", "--out", "out", "--workers", "0")

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
        inside=("media/*", "media/frames/*"),
    ),
    "sound": Target(sound, ("media/film.mp4",), ((*CHECK, "--decode"), CHECK), share=3),
    "asked_media": Target(
        asked_media,
        ("media/*", "media/frames/*"),
        (("answer", "model", "--{kind}", "media/{medium}", *ANSWER),),
        share=3,
        inside=("media/frames/*",),
    ),
    "misplaced": Target(
        misplaced,
        ("media/*",),
        (
            ("convert", "{file}", "--explain"),
            ("answer", "{file}", *ANSWER),
            ("evaluate", "{file}", *MINE),
        ),
        share=3,
        refused=True,
    ),
    "annotations": Target(annotations, ("train.json",), (CHECK,), share=4),
    "annotation_lines": Target(lines_of_annotations, ("train.jsonl",), (CHECK,), share=4),
    "forms": Target(
        forms,
        ("forms/*",),
        (
            ("data", "check", "of-{name}.yaml"),
            ("data", "check", "of-{name}.yaml"),
            ("data", "convert", "{file}", "out.jsonl"),
            ("data", "stats", "of-{name}.yaml"),
        ),
        share=10,
    ),
    "mixture": Target(mixture, ("mix.yaml", "first.json", "second.jsonl"), (CHECK, CHECK, DRY)),
    "recipe": Target(
        annotations,
        ("recipe.yaml",),
        (CHECK, CHECK, CHECK, DRY, ("train", "recipe.yaml", "--out", "run", "--quiet")),
        share=8,
    ),
    "tokenizer": Target(annotations, ("tokenizer/*",), (CHECK,), ("tokenizer",), share=2),
    "native": Target(
        native,
        ("model/*",),
        (("convert", "model", "--explain"), ("convert", "model", "out"), ("answer", "model", *ANSWER)),
        ("model",),
        share=4,
    ),
    "low_rank": Target(
        low_rank,
        ("bundle/*",),
        (("convert", "bundle", "--explain"), ("convert", "bundle", "out"), ("answer", "bundle", *ANSWER)),
        ("bundle",),
        share=4,
    ),
    "published_low_rank": Target(
        published_low_rank,
        ("lora/*", "base/*.json"),
        (
            ("convert", "lora", "--explain", "--model-base", "base"),
            ("convert", "lora", "out", "--model-base", "base"),
        ),
        ("lora", "base"),
        share=4,
    ),
    "sharded": Target(
        sharded,
        ("model/*.safetensors", "model/*.json"),
        (("convert", "model", "--explain"), ("convert", "model", "out")),
        ("model",),
        share=2,
    ),
    "official": Target(
        official, ("model/*",), (("convert", "model", "--explain"), ("convert", "model", "out")), "model", share=3
    ),
    "resume": Target(
        interrupted,
        (
            *("run/*", "run/tables/*", "run/align/*", "run/align/tensorboard/*"),
            *("run/align/checkpoint-*/*", "run/align/checkpoint-*/.metadata"),
        ),
        (("train", "recipe.yaml", "--out", "run", "--quiet", "--device", "cpu"),),
        ("run",),
        share=4,
    ),
    "features": Target(
        features,
        ("features/video/*",),
        ((*CHECK, "--decode"), ("features", "import", "features/video", "--store", "store", "--name", "mine")),
        share=4,
        inside=("features/video/*",),
    ),
    "store": Target(
        store,
        ("store/*/*", "store/*/shards/*"),
        (
            ("features", "verify", "--store", "store"),
            ("features", "list", "--store", "store"),
            ("features", "extract", "recipe.yaml", "--store", "store", "--workers", "1"),
        ),
        ("store",),
        share=2,
    ),
    "questions": Target(
        questions,
        ("eval/*/*/*.json", "eval/*/*/videos/*"),
        (("benchmarks", "check", "msvd_qa", "--data", "eval"), EVALUATE),
        ("(dark", "(light"),
        share=3,
        inside=("videos/*",),
    ),
    "own_test_set": Target(
        own_test_set,
        ("mine.jsonl", "mine.jsonl", "media/film.mp4", "media/clip.webm", "media/frames/*"),
        (
            ("benchmarks", "check", "mine.jsonl", "--data", "media"),
            ("evaluate", "model", *MINE, "--data", "media"),
            ("judge", "gpt.jsonl", "--benchmark", "mine.jsonl", "--data", "media"),
        ),
        share=5,
        inside=("media/*", "media/frames/*"),
    ),
    "other_answers": Target(
        own_test_set, ("gpt.jsonl",), (("judge", "gpt.jsonl", "--benchmark", "mine.jsonl", "--data", "media"),), share=3
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
        ("msvd_qa",),
        share=4,
    ),
    "run_media": Target(
        evaluated,
        ("eval/*/*/videos/*",),
        (("report", "one/msvd_qa", "other/msvd_qa"),),
        share=3,
        inside=("videos/*",),
    ),
    "log": Target(
        evaluated, ("log.jsonl",), (("judge", "log.jsonl", "--benchmark", "msvd_qa", "--data", "eval"),), share=2
    ),
}
