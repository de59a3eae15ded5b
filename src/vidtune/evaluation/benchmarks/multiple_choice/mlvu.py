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

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.multiple_choice.base import (
    ANSWER_BY_LETTER,
    AUTHORS_FRAMES,
    BEST_OPTION,
    LMMS_EVAL_FRAMES,
    Asked,
    MultipleChoice,
    entries_of,
    options_of,
    place_of,
    set_folder,
)
from vidtune.evaluation.benchmarks.test_set_files import field_of
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
        folder = set_folder(data, _FOLDERS, _holds, f"json/{FILES['plotQA']}.json of {self.title}")
        asked: list[Asked] = []
        contents = []
        for task, name in FILES.items():
            path = folder / "json" / f"{name}.json"
            if not path.is_file():
                raise UserError(f"{path}: does not exist; {self.title} has {len(FILES)} tasks, all of which are scored")
            entries, content = entries_of(path)
            videos = name if (folder / self.lookup.folder / name).is_dir() else task
            asked += [_asked(path, index, entry, task, videos) for index, entry in enumerate(entries)]
            contents.append(content)
        return folder, asked, b"\0".join(contents)


def _holds(folder: Path) -> bool:
    return any((folder / "json" / f"{name}.json").is_file() for name in FILES.values())


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


_SOURCE = "Zhou et al., MLVU: Benchmarking Multi-task Long Video Understanding, CVPR 2025, arXiv:2406.04264"
_LOOKUP = FileLookup(folder="video", extensions=("",))
MLVU = MLVUSet(
    name="mlvu",
    system_rules=AUTHORS_FRAMES,
    title="MLVU",
    source=_SOURCE,
    lookup=_LOOKUP,
    choices=ChoiceRules(
        wording=f"Question:{{question}}\nOption:\n{{options}}\n{ANSWER_BY_LETTER}", option="({letter}) {option}"
    ),
    reads="normalised",
    counts_empty=False,
    mean="by questions",
)
MLVU_LMMS_EVAL = MLVUSet(
    name="mlvu_lmms_eval",
    system_rules=LMMS_EVAL_FRAMES,
    title="MLVU, lmms-eval",
    record_of="mlvu",
    source=f"{_SOURCE}; rules of lmms-eval 0.7",
    lookup=_LOOKUP,
    choices=ChoiceRules(
        wording=f"{{question}}\n{{options}}\n{BEST_OPTION}\nBest option: (", option="({letter}) {option}"
    ),
    reads="ranked",
    mean="of tasks",
)
