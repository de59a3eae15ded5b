"""MLVU: seven multiple-choice tasks about videos of minutes to hours.

Zhou et al., MLVU: Benchmarking Multi-task Long Video Understanding, CVPR 2025, arXiv:2406.04264. The layout is that of
the public release (its development part): ``json/4_count.json`` and videos in ``video/4_count/``, or ``video/count/``.
Its two tasks of free answers are not part of it.

Two records: `MLVU` as the authors of VideoChat-Flash (arXiv:2501.00574) evaluate, `MLVU_LMMS_EVAL` as lmms-eval 0.7
does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidtune.evaluation.benchmarks.multiple_choice.base import (
    ANSWER_BY_LETTER,
    AUTHORS_FRAMES,
    BEST_OPTION,
    Asked,
    MultipleChoice,
    options_of,
    place_of,
    tasks_of,
)
from vidtune.evaluation.benchmarks.test_set_files import field_of, set_file
from vidtune.evaluation.protocol import ChoiceRules, FileLookup

FILES = {
    "plotQA": "1_plotQA",
    "needle": "2_needle",
    "ego": "3_ego",
    "count": "4_count",
    "order": "5_order",
    "anomaly_reco": "6_anomaly_reco",
    "topic_reasoning": "7_topic_reasoning",
}
"""Task -> name of its annotation file, and mostly of its folder of videos."""
_FOLDERS = ("MLVU", "MVLU_DATA", "MLVU/MLVU", "mlvu")


@dataclass(frozen=True)
class MLVUSet(MultipleChoice):
    """The test set."""

    def read(self, data: Path) -> tuple[Path, Sequence[Asked], bytes]:
        names = [f"json/{name}.json" for name in FILES.values()]
        folder, _ = set_file(data, _FOLDERS, names, self.title)
        paths = [folder / name for name in names]
        tasks, content = tasks_of(paths)
        asked: list[Asked] = []
        for (task, name), path, entries in zip(FILES.items(), paths, tasks, strict=True):
            videos = name if (folder / self.lookup.folder / name).is_dir() else task
            asked += [_asked(path, index, entry, task, videos) for index, entry in enumerate(entries)]
        return folder, asked, content


def _asked(path: Path, index: int, entry: Any, task: str, videos: str) -> Asked:
    options = options_of(path, index, entry, "candidates")
    return Asked(
        where=f"{path}: entry {index}",
        id=f"{task}/{index}",
        type=task,
        video=f"{videos}/{field_of(path, index, entry, 'video', (str,))}",
        question=field_of(path, index, entry, "question", (str,)),
        options=options,
        right=place_of(field_of(path, index, entry, "answer", (str, int, float)), options),
    )


MLVU = MLVUSet(
    name="mlvu",
    system_rules=AUTHORS_FRAMES,
    title="MLVU",
    source="Zhou et al., MLVU: Benchmarking Multi-task Long Video Understanding, CVPR 2025, arXiv:2406.04264",
    lookup=FileLookup(folder="video", extensions=("",)),
    choices=ChoiceRules(
        wording=f"Question:{{question}}\nOption:\n{{options}}\n{ANSWER_BY_LETTER}", option="({letter}) {option}"
    ),
    reads="normalised",
    counts_empty=False,
    mean="by questions",
)
MLVU_LMMS_EVAL = MLVU.by_lmms_eval(
    choices=ChoiceRules(
        wording=f"{{question}}\n{{options}}\n{BEST_OPTION}\nBest option: (", option="({letter}) {option}"
    ),
    reads="ranked",
    counts_empty=True,
    mean="of tasks",
)
