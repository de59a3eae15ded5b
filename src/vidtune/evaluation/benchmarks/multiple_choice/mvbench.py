"""MVBench: twenty tasks of 200 questions about short clips, each with two to five options.

Li et al., MVBench: A Comprehensive Multi-modal Video Understanding Benchmark, CVPR 2024, arXiv:2311.17005. The layout
is that of the public release: ``json/<task>.json`` and the videos of each task in a folder below ``video/``. A question
of five tasks names the seconds of its video; of one of them the videos are folders of frames, three a second.

Two records: `MVBENCH` as the authors of VideoChat-Flash (arXiv:2501.00574) evaluate, `MVBENCH_LMMS_EVAL` as lmms-eval
0.7 does. The latter reads files that are cut already, where they are there; elsewhere the part of the whole file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidtune.evaluation.benchmarks.multiple_choice.base import (
    AUTHORS_FRAMES,
    BEST_OPTION,
    Asked,
    MultipleChoice,
    options_of,
    place_of,
    seconds_of,
    tasks_of,
)
from vidtune.evaluation.benchmarks.test_set_files import field_of, set_file
from vidtune.evaluation.protocol import ChoiceRules, FileLookup

VIDEOS = "video"
FRAMES_PER_SECOND = 3.0


@dataclass(frozen=True, slots=True)
class Task:
    """One task.

    Args:
        folder: folder of its videos below `VIDEOS`.
        cut: folder of the same videos cut to what is asked about, or converted; the same where there is none.
        timed: its questions name a part of their video.
        frames: its videos are folders of frames; those below ``cut`` are files.
    """

    folder: str
    cut: str
    timed: bool = False
    frames: bool = False


def _task(folder: str, cut: str | None = None, timed: bool = False, frames: bool = False) -> Task:
    return Task(folder, cut or folder, timed, frames)


_CHARADES = _task("star/Charades_v1_480", "star/Charades_segment", timed=True)
_CLEVRER, _PERCEPTION = _task("clevrer/video_validation"), _task("perception/videos")
TASKS: Mapping[str, Task] = {
    "action_sequence": _CHARADES,
    "action_prediction": _CHARADES,
    "action_antonym": _task("ssv2_video", "ssv2_video_mp4"),
    "fine_grained_action": _task("Moments_in_Time_Raw/videos"),
    "unexpected_action": _task("FunQA_test/test"),
    "object_existence": _CLEVRER,
    "object_interaction": _CHARADES,
    "object_shuffle": _PERCEPTION,
    "moving_direction": _CLEVRER,
    "action_localization": _task("sta/sta_video", "sta/sta_video_segment", timed=True),
    "scene_transition": _task("scene_qa/video"),
    "action_count": _PERCEPTION,
    "moving_count": _CLEVRER,
    "moving_attribute": _CLEVRER,
    "state_change": _PERCEPTION,
    "fine_grained_pose": _task("nturgbd", "nturgbd_convert"),
    "character_order": _PERCEPTION,
    "egocentric_navigation": _task("vlnqa"),
    "episodic_reasoning": _task("tvqa/frames_fps3_hq", "tvqa/video_fps3_hq_segment", timed=True, frames=True),
    "counterfactual_inference": _CLEVRER,
}


@dataclass(frozen=True)
class MVBench(MultipleChoice):
    """The test set.

    Args:
        cut: videos that are cut or converted already are read where their folder is there.
    """

    cut: bool = False

    def read(self, data: Path) -> tuple[Path, Sequence[Asked], bytes]:
        names = [f"json/{name}.json" for name in TASKS]
        folder, _ = set_file(data, ("MVBench", "mvbench"), names, self.title)
        paths = [folder / name for name in names]
        tasks, content = tasks_of(paths)
        asked: list[Asked] = []
        for (name, task), path, entries in zip(TASKS.items(), paths, tasks, strict=True):
            is_cut = self.cut and task.cut != task.folder and (folder / VIDEOS / task.cut).is_dir()
            asked += [_asked(path, index, entry, name, task, is_cut) for index, entry in enumerate(entries)]
        return folder, asked, content


def _asked(path: Path, index: int, entry: Any, name: str, task: Task, is_cut: bool) -> Asked:
    options = options_of(path, index, entry, "candidates")
    video = field_of(path, index, entry, "video", (str,))
    timed = task.timed and not is_cut
    return Asked(
        where=f"{path}: entry {index}",
        id=f"{name}/{index}",
        type=name,
        video=f"{task.cut if is_cut else task.folder}/{video}",
        question=field_of(path, index, entry, "question", (str,)),
        options=options,
        right=place_of(field_of(path, index, entry, "answer", (str, int, float)), options),
        start=seconds_of(path, index, entry, "start") if timed else None,
        end=seconds_of(path, index, entry, "end") if timed else None,
        frames=FRAMES_PER_SECOND if task.frames and not is_cut else None,
    )


MVBENCH = MVBench(
    name="mvbench",
    system_rules=AUTHORS_FRAMES,
    title="MVBench",
    source="Li et al., MVBench: A Comprehensive Multi-modal Video Understanding Benchmark, CVPR 2024, arXiv:2311.17005",
    lookup=FileLookup(folder=VIDEOS, extensions=("",)),
    choices=ChoiceRules(
        wording=f"Question: {{question}}\nOption:\n{{options}}\n\n{BEST_OPTION}", option="({letter}) {option}"
    ),
    reads="normalised",
    counts_empty=False,
    mean="by questions",
)
MVBENCH_LMMS_EVAL = MVBENCH.by_lmms_eval(
    choices=ChoiceRules(
        wording=f"Question:{{question}}\nOption:\n{{options}}\n{BEST_OPTION}\n", option="({letter}) {option}"
    ),
    cut=True,
)
