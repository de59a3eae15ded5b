"""LongVideoBench: questions about what is referred to in long videos with subtitles, with up to five options.

Wu et al., LongVideoBench: A Benchmark for Long-context Interleaved Video-Language Understanding, NeurIPS 2024 Datasets
and Benchmarks, arXiv:2407.15754. The layout is that of the public release: ``lvb_val.json``, ``videos/``,
``subtitles/``.

`LONGVIDEOBENCH` is as the authors of VideoChat-Flash (arXiv:2501.00574) evaluate: always with the subtitles of 512
frames, and a letter drawn at random where the answer names none. `LONGVIDEOBENCH_LMMS_EVAL` is the task
``longvideobench_val_v`` of lmms-eval 0.7, without subtitles. In `LONGVIDEOBENCH_INTERLEAVED` frames of the video stand
as pictures between the subtitles, as the data loader of the paper gives them (github.com/longvideobench/LongVideoBench,
64 frames in its README); `LONGVIDEOBENCH_INTERLEAVED_LMMS_EVAL` is the task ``longvideobench_val_i`` of lmms-eval, 16
frames. Both take frames at even steps of whole frames; the loader of the paper places them by the seconds at which they
are shown, lmms-eval by even seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from vidtune.data.sample import MediaRef
from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.multiple_choice.base import (
    ANSWER_BY_LETTER,
    AUTHORS_FRAMES,
    Asked,
    MultipleChoice,
    options_of,
    probed,
)
from vidtune.evaluation.benchmarks.multiple_choice.subtitles import (
    between_lines,
    frame_times,
    json_lines,
    lines_at,
    placed_frames,
)
from vidtune.evaluation.benchmarks.named_files import VideoFiles
from vidtune.evaluation.benchmarks.test_set_files import above_zero, field_of, is_there, name_of, read_list, set_file
from vidtune.evaluation.protocol import ChoiceRules, FileLookup, GenerationRules
from vidtune.foreign.containment import stays_below
from vidtune.spelling import counted

if TYPE_CHECKING:
    from vidtune.media.probe import MediaInfo

FILES = ("lvb_val.json", "lvb_val.jsonl")
NO_OPTION = "N/A"
MOST_OPTIONS = 5
FRAMES = 512
"""Number of frames whose subtitles are in the prompt."""
PICTURES = "image"
"""Stream that reads frames."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """Subtitles that questions share: a file, the seconds of the video, and at which of the file it begins."""

    path: Path
    duration: float
    offset: float

    @property
    def frames(self) -> list[float]:
        """Seconds of the frames whose subtitles are in a prompt without pictures."""
        return frame_times(self.duration, FRAMES)


@dataclass(frozen=True, slots=True)
class Shown:
    """What stands before a question: tags of frames and subtitles, a line each, and the frames in this order."""

    text: str
    media: tuple[MediaRef, ...]


@dataclass(frozen=True)
class LongVideoBench(MultipleChoice):
    """The test set.

    Args:
        subtitles: the wording has the subtitles of `FRAMES` frames, or of the interleaved ones.
        interleaved: most frames that stand as pictures between the subtitles; 0: the video itself is asked about.
        by_shown_seconds: frames are placed by the seconds at which they are shown; otherwise by even seconds.
    """

    subtitles: bool = True
    interleaved: int = 0
    by_shown_seconds: bool = True

    def read(self, data: Path) -> tuple[Path, Sequence[Asked], bytes]:
        folder, path = set_file(data, ("LongVideoBench", "longvideobench"), FILES, self.title)
        entries, content = read_list(path)
        asked = [_asked(path, index, entry) for index, entry in enumerate(entries)]
        if not self.subtitles:
            return folder, asked, content
        spoken = [_spoken(path, index, entry) for index, entry in enumerate(entries)]
        _require_there(path, spoken)
        if self.interleaved:
            asked, texts = self._with_frames(folder, asked, spoken)
        else:
            each = dict.fromkeys(spoken)
            said = {one: "\n".join(lines_at(one.path, one.frames, one.offset, one.duration)) for one in each}
            asked = [replace(one, fields={"subtitles": said[its]}) for one, its in zip(asked, spoken, strict=True)]
            texts = list(said.values())
        return folder, asked, b"\0".join([content, *(text.encode() for text in texts)])

    def _with_frames(
        self, folder: Path, asked: Sequence[Asked], spoken: Sequence["Spoken"]
    ) -> tuple[list[Asked], list[str]]:
        """The questions with frames of their videos between subtitles, and what stands before them, each text once."""
        names = {one.video: (one.where, "video_path") for one in asked}
        files = {name: one.file or one.similar for name, one in VideoFiles(self.lookup, folder, names).found.items()}
        infos = probed({name: folder / file for name, file in files.items() if file is not None})
        known: dict[tuple[str, Spoken], Shown] = {}
        for one, its in zip(asked, spoken, strict=True):
            if (one.video, its) not in known:
                known[one.video, its] = self._shown(its, files[one.video], infos.get(one.video))
        found = [known[one.video, its] for one, its in zip(asked, spoken, strict=True)]
        asked = [replace(one, fields={"shown": s.text}, media=s.media) for one, s in zip(asked, found, strict=True)]
        return asked, [one.text for one in known.values()]

    def _shown(self, spoken: "Spoken", file: str | None, info: "MediaInfo | None") -> "Shown":
        """What stands before the questions about a video; frames by even seconds where it cannot be read."""
        seconds = frame_times(spoken.duration, self.interleaved) or [0.0]
        starts = seconds
        if info is not None and info.times.known:
            frames = placed_frames(spoken.duration, info.fps, info.num_frames, self.interleaved)
            starts = [info.times.second_of(frame) for frame in frames]
            seconds = [frame / info.fps for frame in frames] if self.by_shown_seconds else seconds
        lines = between_lines(json_lines(spoken.path, spoken.offset, spoken.duration), seconds, f"<{PICTURES}>")
        media = () if file is None else tuple(MediaRef(PICTURES, file, start=start) for start in starts)
        return Shown("\n".join(lines), media)

    @property
    def medium(self) -> str:
        return "video"

    def further_rules(self) -> dict[str, Any]:
        return {**super().further_rules(), **({"stream": PICTURES} if self.interleaved else {})}


def _asked(path: Path, index: int, entry: Any) -> Asked:
    texts = _options(path, index, entry)
    right = field_of(path, index, entry, "correct_choice", (int,))
    if not 0 <= right < len(texts):
        raise UserError(f"{path}: entry {index}: 'correct_choice' is {right}, expected 0 to {len(texts) - 1}")
    return Asked(
        where=f"{path}: entry {index}",
        id=name_of(path, index, entry, "id", index),
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


def _spoken(path: Path, index: int, entry: Mapping[str, Any]) -> Spoken:
    name = field_of(path, index, entry, "subtitle_path", (str,)).replace("_en.json", ".json")
    place = name.removesuffix(".json") + "_en.json"
    if not stays_below(place):
        raise UserError(f"{path}: entry {index}: 'subtitle_path' {name!r} leaves the folder of the test set")
    duration = above_zero(path, index, entry, "duration")
    offset = float(field_of(path, index, entry, "starting_timestamp_for_subtitles", (int, float)))
    return Spoken(path.parent / "subtitles" / place, duration, offset)


def _require_there(path: Path, spoken: Sequence[Spoken]) -> None:
    """Raise UserError if a file of subtitles is not there; names the first of them and its entry."""
    lacking = {one.path: index for index, one in reversed([*enumerate(spoken)]) if not is_there(one.path)}
    if lacking:
        first = min(lacking, key=lacking.__getitem__)
        raise UserError(
            f"{path}: entry {lacking[first]}: no subtitles at {str(first)!r} ({counted(len(lacking), 'file')} missing "
            "in all); download the subtitles of the test set"
        )


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
LONGVIDEOBENCH_INTERLEAVED = replace(
    LONGVIDEOBENCH,
    name="longvideobench_interleaved",
    title="LongVideoBench, frames between subtitles",
    system_rules={},
    choices=ChoiceRules(wording=f"{{shown}}\nQuestion: {{question}}\n{{options}}\n{ANSWER_BY_LETTER}"),
    reads="first_of_five",
    interleaved=64,
)
LONGVIDEOBENCH_INTERLEAVED_LMMS_EVAL = replace(
    LONGVIDEOBENCH_INTERLEAVED.by_lmms_eval(
        choices=ChoiceRules(wording=f"{{shown}}\n{{question}}\n{{options}}\n{ANSWER_BY_LETTER}\n"),
        interleaved=16,
        by_shown_seconds=False,
    ),
    system_rules={},
)
