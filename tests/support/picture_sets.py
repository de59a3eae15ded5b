"""Small test sets about pictures, in the layout of LLaVA's evaluation folder."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from choice_sets import touch, write_json

SHORT = "Answer the question using a single word or phrase."


def write_lines(path: Path, lines: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def pope(folder: Path, labels: Mapping[str, Sequence[str]], pictures: bool = True) -> Path:
    """Questions of each category, with these labels, about the pictures ``i0.jpg``, ``i1.jpg``, ..."""
    questions = []
    for kind, given in labels.items():
        asked = [(f"i{place}.jpg", f"Is there a thing{place} in the image?") for place in range(len(given))]
        for picture, text in asked:
            entry = {"question_id": len(questions), "image": picture, "text": f"{text}\n{SHORT}", "category": kind}
            questions.append(entry)
            if pictures:
                touch(folder / "val2014" / picture)
        write_lines(
            folder / "coco" / f"coco_pope_{kind}.json",
            [
                {"question_id": place + 1, "image": picture, "text": text, "label": label}
                for place, ((picture, text), label) in enumerate(zip(asked, given, strict=True))
            ],
        )
    write_lines(folder / "llava_pope_test.jsonl", questions)
    return folder


def textvqa(folder: Path, annotations: Sequence[Mapping[str, Any]], prompts: Sequence[tuple[str, str]]) -> Path:
    """Questions of (picture, prompt), with the annotations of ten people each."""
    questions = [{"question_id": name, "image": f"{name}.jpg", "text": prompt} for name, prompt in prompts]
    write_lines(folder / "llava_textvqa_val_v051_ocr.jsonl", questions)
    write_json(folder / "TextVQA_0.5.1_val.json", {"data": list(annotations)})
    for name, _ in prompts:
        touch(folder / "train_images" / f"{name}.jpg")
    return folder


def gqa(folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> Path:
    """The questions of an annotation file."""
    questions = [
        {"question_id": id, "image": f"{one['imageId']}.jpg", "text": f"{one['question']}\n{SHORT}"}
        for id, one in entries.items()
    ]
    write_lines(folder / "llava_gqa_testdev_balanced.jsonl", questions)
    write_json(folder / "data" / "testdev_balanced_questions.json", entries)
    for one in entries.values():
        touch(folder / "data" / "images" / f"{one['imageId']}.jpg")
    return folder


def mme(folder: Path, pictures: Mapping[str, Sequence[str]], in_folders: Sequence[str] = ()) -> Path:
    """Pictures of each category with two questions, the first answered Yes, the second No.

    Args:
        in_folders: categories whose pictures and questions are in folders of their own.
    """
    for kind, names in pictures.items():
        place = folder / "MME_Benchmark_release_version" / kind
        of_pictures, of_texts = (
            (place / "images", place / "questions_answers_YN") if kind in in_folders else (place,) * 2
        )
        for name in names:
            touch(of_pictures / name)
            text = "".join(
                f"Is it {one} in {name}? Please answer yes or no.\t{answer}\n"
                for one, answer in (("a", "Yes"), ("b", "No"))
            )
            path = of_texts / f"{Path(name).stem}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return folder


def seed_bench(folder: Path) -> Path:
    """Two questions about pictures, right are A and B; two about ``7.mp4`` and ``8.mp4``, which are not there."""
    options = {"question": "Which?", "choice_a": "x", "choice_b": "y", "choice_c": "z", "choice_d": "w"}
    asked = [
        ("1", "one", "A", 1, {}),
        ("2", "two.jpg", "B", 1, {}),
        ("v3", "7.mp4", "C", 10, {}),
        ("v4", "8.mp4", "D", 10, {"segment": [0.5, 0.9]}),
    ]
    questions = [
        {
            **options,
            "question_id": id,
            "data_id": name,
            "answer": letter,
            "question_type_id": kind,
            "data_type": "image" if kind < 10 else "video",
            **more,
        }
        for id, name, letter, kind, more in asked
    ]
    kinds = {"Scene Understanding": 1, "Action Recognition": 10}
    write_json(folder / "SEED-Bench.json", {"question_type": kinds, "questions": questions})
    for name in ("one", "two.jpg"):
        touch(folder / "SEED-Bench-image" / name)
    return folder
