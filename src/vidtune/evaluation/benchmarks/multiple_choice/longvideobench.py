"""LongVideoBench: questions about what is referred to in long videos with subtitles, with up to five options.

Wu et al., LongVideoBench: A Benchmark for Long-context Interleaved Video-Language Understanding, NeurIPS 2024 Datasets
and Benchmarks, arXiv:2407.15754. The layout is that of the public release: ``lvb_val.json``, ``videos/``,
``subtitles/``.

`LONGVIDEOBENCH` is as the authors of VideoChat-Flash (arXiv:2501.00574) evaluate: always with the subtitles of 512
frames, and a letter drawn at random where the answer names none. `LONGVIDEOBENCH_LMMS_EVAL` is the task
``longvideobench_val_v`` of lmms-eval 0.7, without subtitles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.multiple_choice.base import (
    ANSWER_BY_LETTER,
    AUTHORS_FRAMES,
    Asked,
    MultipleChoice,
    options_of,
)
from vidtune.evaluation.benchmarks.multiple_choice.subtitles import frame_times, lines_at
from vidtune.evaluation.benchmarks.test_set_files import field_of, read_list, set_file
from vidtune.evaluation.protocol import ChoiceRules, FileLookup, GenerationRules

FILES = ("lvb_val.json", "lvb_val.jsonl")
NO_OPTION = "N/A"
MOST_OPTIONS = 5
FRAMES = 512
"""Number of frames whose subtitles are in the prompt."""


@dataclass(frozen=True)
class LongVideoBench(MultipleChoice):
    """The test set.

    Args:
        subtitles: the wording has the subtitles of `FRAMES` frames.
    """

    subtitles: bool = True

    def read(self, data: Path) -> tuple[Path, Sequence[Asked], bytes]:
        folder, path = set_file(data, ("LongVideoBench", "longvideobench"), FILES, self.title)
        entries, content = read_list(path)
        asked = [_asked(path, index, entry) for index, entry in enumerate(entries)]
        if not self.subtitles:
            return folder, asked, content
        known: dict[tuple[Any, ...], str] = {}
        said = [_subtitles(path, index, entry, known) for index, entry in enumerate(entries)]
        asked = [replace(one, fields={"subtitles": text}) for one, text in zip(asked, said, strict=True)]
        return folder, asked, b"\0".join([content, *(text.encode() for text in known.values())])


def _asked(path: Path, index: int, entry: Any) -> Asked:
    texts = _options(path, index, entry)
    right = field_of(path, index, entry, "correct_choice", (int,))
    if not 0 <= right < len(texts):
        raise UserError(f"{path}: entry {index}: 'correct_choice' is {right}, expected 0 to {len(texts) - 1}")
    return Asked(
        where=f"{path}: entry {index}",
        id=str(entry.get("id", index)),
        type=str(field_of(path, index, entry, "duration_group", (int, str))),
        video=field_of(path, index, entry, "video_path", (str,)),
        question=field_of(path, index, entry, "question", (str,)),
        options=texts,
        right=right,
    )


def _options(path: Path, index: int, entry: Any) -> tuple[str, ...]:
    """The options, in a list ``candidates`` or in ``option0`` to ``option4``, of which the last may be no option."""
    if isinstance(entry, dict) and "candidates" in entry:
        found = list(options_of(path, index, entry, "candidates"))
    else:
        keys = [f"option{place}" for place in range(MOST_OPTIONS)]
        found = [field_of(path, index, entry, key, (str,)) for key in keys if key == "option0" or key in entry]
    texts = [str(one) for one in found]
    last = texts.index(NO_OPTION) if NO_OPTION in texts else len(texts)
    if set(texts[last:]) - {NO_OPTION} or not 1 <= last <= len(ascii_uppercase):
        raise UserError(f"{path}: entry {index}: options are {texts!r}, expected texts, then {NO_OPTION!r}")
    return tuple(texts[:last])


def _subtitles(path: Path, index: int, entry: Mapping[str, Any], known: dict[tuple[Any, ...], str]) -> str:
    """The subtitles of a question, which several about one video share."""
    name = field_of(path, index, entry, "subtitle_path", (str,)).replace("_en.json", ".json")
    place = Path(name.removesuffix(".json") + "_en.json")
    if place.is_absolute() or ".." in place.parts:
        raise UserError(f"{path}: entry {index}: 'subtitle_path' {name!r} leaves the folder of the test set")
    duration = float(field_of(path, index, entry, "duration", (int, float)))
    offset = float(field_of(path, index, entry, "starting_timestamp_for_subtitles", (int, float)))
    key = (place, duration, offset)
    if key not in known:
        lines = lines_at(path.parent / "subtitles" / place, frame_times(duration, FRAMES), offset, duration)
        known[key] = "\n".join(lines)
    return known[key]


LONGVIDEOBENCH = LongVideoBench(
    name="longvideobench",
    title="LongVideoBench",
    source=(
        "Wu et al., LongVideoBench: A Benchmark for Long-context Interleaved Video-Language Understanding, NeurIPS "
        "2024, arXiv:2407.15754"
    ),
    lookup=FileLookup(folder="videos", extensions=("", ".mp4")),
    system_rules=AUTHORS_FRAMES,
    generation=GenerationRules(max_new_tokens=32),
    choices=ChoiceRules(
        wording=(
            " This video's subtitles are listed below: \n{subtitles}.\n Select the best answer to the following "
            "multiple-choice question based on the video and the subtitles. Respond with only the letter of the "
            f"correct option.\nQuestion: {{question}}\n{{options}}\n{ANSWER_BY_LETTER}\n"
        ),
        option="({letter}). {option}",
    ),
    reads="written_out",
    guesses=True,
)
LONGVIDEOBENCH_LMMS_EVAL = LONGVIDEOBENCH.by_lmms_eval(
    choices=ChoiceRules(wording=f"{{question}}\n{{options}}\n{ANSWER_BY_LETTER}\n"),
    reads="first_of_five",
    subtitles=False,
)
