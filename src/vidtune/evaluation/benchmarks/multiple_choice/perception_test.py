"""Perception Test, validation part: questions about short videos, each with three options.

Pătrăucean et al., Perception Test: A Diagnostic Benchmark for Multimodal Video Models, NeurIPS 2023, arXiv:2305.13786.
Read is ``mc_question_valid.json`` of the public release (video -> its questions), or a list of questions that each name
their video (``video_name``); the videos are in ``videos/``.

Two records: `PERCEPTION_TEST` as the authors of VideoChat-Flash (arXiv:2501.00574) evaluate, and
`PERCEPTION_TEST_LMMS_EVAL` as lmms-eval 0.7 does, where an answer is right only if it is the letter alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.multiple_choice.base import (
    ANSWER_BY_LETTER,
    AUTHORS_FRAMES,
    BEST_OPTION,
    Asked,
    MultipleChoice,
    options_of,
    place_of,
)
from vidtune.evaluation.benchmarks.test_set_files import field_of, name_of, set_file, value_and_bytes
from vidtune.evaluation.protocol import ChoiceRules, FileLookup, GenerationRules

FILES = ("mc_question_valid.json", "mc_question_val.json")


@dataclass(frozen=True)
class PerceptionTest(MultipleChoice):
    """The test set."""

    def read(self, data: Path) -> tuple[Path, Sequence[Asked], bytes]:
        if data.is_file():
            folder, path = data.parent.resolve(), data
        else:
            folder, path = set_file(data, ("PerceptionTest", "perception_test"), FILES, self.title)
        value, content = value_and_bytes(path)
        return folder, [_asked(path, *one) for one in _entries(path, value)], content


def _entries(path: Path, value: Any) -> Iterator[tuple[int | str, str, str, Any]]:
    """Yields (place of the entry, video, id of the question, question)."""
    if isinstance(value, Mapping):
        for index, (video, entry) in enumerate(value.items()):
            for number, one in enumerate(field_of(path, index, entry, "mc_question", (list,))):
                place = f"{index} ({video!r}), question {number}"
                yield place, video, name_of(path, place, one, "id", number), one
    elif isinstance(value, list):
        for index, one in enumerate(value):
            video = str(field_of(path, index, one, "video_name", (str, int)))
            yield index, video, name_of(path, index, one, "question_id", index), one
    else:
        raise UserError(f"{path}: expected an object of videos or a list of questions, found {type(value).__name__}")


def _asked(path: Path, index: int | str, video: str, number: str, entry: Any) -> Asked:
    options = options_of(path, index, entry, "options")
    answer = str(field_of(path, index, entry, "answer_id", (str, int)))
    return Asked(
        where=f"{path}: entry {index}",
        id=f"{video}/{number}",
        type=name_of(path, index, entry, "area", "all areas"),
        video=video,
        question=field_of(path, index, entry, "question", (str,)),
        options=options,
        right=place_of(answer, [str(place) for place in range(len(options))]),
    )


_LETTERS = "ABC"
PERCEPTION_TEST = PerceptionTest(
    name="perception_test",
    system_rules=AUTHORS_FRAMES,
    title="Perception Test",
    source="Pătrăucean et al., Perception Test, NeurIPS 2023, arXiv:2305.13786; validation part",
    lookup=FileLookup(folder="videos", extensions=(".mp4", ".MP4")),
    choices=ChoiceRules(
        wording=f"\nQuestion: {{question}}\n{{options}}\n{BEST_OPTION}", option="({letter}). {option}", letters=_LETTERS
    ),
    reads="standing",
    generation=GenerationRules(max_new_tokens=1024),
)
PERCEPTION_TEST_LMMS_EVAL = PERCEPTION_TEST.by_lmms_eval(
    choices=ChoiceRules(
        wording=f"{{question}}\n{{options}}\n{ANSWER_BY_LETTER}", option="{letter}. {option}", letters=_LETTERS
    ),
    reads="alone",
)
