"""A task of lmms-eval about two clips, as its framework hands it to a model, and as files for its command."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image
from synthetic_clips import write_clip

TASK = "clips"
GENERATION = {"max_new_tokens": 4, "temperature": 0, "top_p": 1.0, "num_beams": 1, "until": ["\n\n"]}
QUESTIONS = ("What moves?", "What colour is it?", "Where does it go?")


def write_media(folder: Path) -> list[dict[str, Any]]:
    """Documents: every question about every clip, the clips in turn."""
    clips = [write_clip(folder / "a.mp4"), write_clip(folder / "b.mp4", num_frames=9, size=(32, 64))]
    return [{"video": str(clip), "question": text, "answer": "x"} for text in QUESTIONS for clip in clips]


def messages_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages that lmms-eval makes of ``doc_to_visual`` and ``doc_to_text``: media first."""
    content = [{"type": "video", "url": document["video"]}, {"type": "text", "text": document["question"]}]
    return [{"role": "user", "content": content}]


def requests_for(
    documents: Sequence[Any], messages: Callable[[Any], Any] = messages_of, **generation: Any
) -> list[SimpleNamespace]:
    """What ``generate_until`` gets: the six arguments of a chat model."""
    settings = {**GENERATION, **generation}
    return [
        SimpleNamespace(args=("context", messages, dict(settings), number, TASK, "test"))
        for number in range(len(documents))
    ]


def picture(colour: int) -> Image.Image:
    return Image.fromarray(np.full((20, 30, 3), colour, np.uint8))


def write_task(folder: Path, documents: Sequence[Any]) -> Path:
    """The task as files for ``--include_path``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    (folder / "functions.py").write_text(
        "def visual(doc):\n    return [doc['video']]\n\n\n"
        "def text(doc, lmms_eval_specific_kwargs=None):\n    return doc['question']\n\n\n"
        "def results(doc, results):\n    return {'length': len(results[0])}\n"
    )
    (folder / "clips.yaml").write_text(
        f"task: {TASK}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'test.jsonl'}}}}}\n"
        "test_split: test\noutput_type: generate_until\ndoc_to_visual: !function functions.visual\n"
        "doc_to_text: !function functions.text\ndoc_to_target: answer\nprocess_results: !function functions.results\n"
        "generation_kwargs: {max_new_tokens: 4, temperature: 0, do_sample: false}\n"
        "metric_list: [{metric: length, aggregation: mean, higher_is_better: true}]\nmetadata: [{version: 0.0}]\n"
    )
    return folder
