"""VideoRefBench: what does the boxed one do in the video? Answers are captions, compared with one reference each.

Qiu et al., Artemis: Towards Referential Understanding in Complex Videos, NeurIPS 2024, arXiv:2406.00258;
`artemis/eval/run_inference_artemis_bench.py` and `utils/get_score_metric.py` there. The test set is the validation part
of HC-STVG, ``hc_stvg_val.json`` in the form of `data.referring`, and the folders of frames and features that it names.

========  ==================================================================================================
official  one answer per video name, the last one; answers of 5 characters or fewer, or of 300 or more, are in no value,
          nor are their references
strict    every question, whatever the length of its answer; one without an answer counts as an empty one
========  ==================================================================================================

The published script sees every (n // 8)-th of n boxes, from the first on: of 15 boxes the first 8.
`VIDEOREF_BENCH_WHOLE` is the same set with 8 boxes from the first to the last.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vidtune.data.annotation import Annotation
from vidtune.data.referring import TAG
from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.base import OfficialAnswer, answer_of
from vidtune.evaluation.benchmarks.measured import Item, Measured, MeasuredBenchmark
from vidtune.evaluation.benchmarks.target_questions import PATHS, read_targets, target_set
from vidtune.evaluation.benchmarks.test_set_files import field_of
from vidtune.evaluation.benchmarks.zero_shot_qa import ARTEMIS_SAMPLING
from vidtune.evaluation.metrics.base import CaptionMetric, MetricValues, TaskValues
from vidtune.evaluation.metrics.bleu import ORDERS, bleu4, bleu_of_sums
from vidtune.evaluation.metrics.captions import score_captions
from vidtune.evaluation.metrics.cider import cider
from vidtune.evaluation.metrics.programs.caption_programs import CaptionPrograms, programs_identity
from vidtune.evaluation.metrics.programs.meteor import meteor_of_sums
from vidtune.evaluation.metrics.rouge import rouge_l
from vidtune.evaluation.outcome import Metric
from vidtune.evaluation.protocol import FileLookup, GenerationRules
from vidtune.evaluation.question import Prediction, Question, QuestionSet

TARGET = "target"
"""The type of all questions."""
BOX, TRACK = "box", "track"
"""Streams of the asked box, and of the boxes over time; the first is asked about by its tag."""
QUESTION = f"What is the {TAG} doing in this video?"
SHORTEST, LONGEST = 6, 299
"""Lengths in characters of the answers that the published scorer takes."""
METRICS = (
    *(Metric(f"BLEU{order}", TARGET, from_sums=bleu_of_sums(order)) for order in range(1, ORDERS + 1)),
    Metric("METEOR", TARGET, of_one="METEOR", from_sums=meteor_of_sums),
    Metric("Rouge", TARGET, of_one="Rouge"),
    Metric("CIDEr", TARGET, highest=10.0, of_one="CIDEr"),
    Metric("SPICE", TARGET, of_one="SPICE"),
    Metric("BERTScore", TARGET, of_one="BERTScore"),
)


@dataclass(frozen=True)
class TargetCaptions(MeasuredBenchmark):
    """A set of questions about one target each.

    Args:
        choice: which boxes of a track are taken, see `media.preprocessing.box_choice`.
    """

    name: str
    title: str
    source: str
    choice: str
    lookup: FileLookup = PATHS
    annotations: str = "hc_stvg_val.json"
    folders: tuple[str, ...] = ("videorefbench_json", "Artemis_data")
    generation: GenerationRules = field(default_factory=lambda: GenerationRules(**ARTEMIS_SAMPLING))
    version: int = 1
    system_rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return METRICS

    def load(self, data: Path) -> QuestionSet:
        """Read the set.

        Args:
            data: annotation file, its folder, or one above it. Its paths are relative to the first folder in which one
                of them exists: that of the file, the one above, ``data``, and ``Artemis_data`` in each.

        Raises:
            UserError: no such file, broken JSON, or an item of the wrong form; names file, entry and key.
        """
        path = self._find(Path(data)).resolve()
        entries, fingerprint = read_targets(path)
        root = self._root(path, Path(data).resolve(), [annotation for _, annotation in entries])
        asked = ((_question(path, index, *entry), entry[1]) for index, entry in enumerate(entries))
        return target_set(self.name, root, fingerprint, asked)

    def further_rules(self) -> dict[str, Any]:
        return {"question_media": {BOX: {}, TRACK: {"choice": self.choice}}}

    @property
    def measuring(self) -> dict[str, Any]:
        return {"tokenizer": "ptb", "lengths": [SHORTEST, LONGEST], **programs_identity()}

    def measure(self, items: Sequence[Item]) -> Measured:
        with CaptionPrograms() as programs:
            # Both with the same metrics: one that fails in the second is in neither.
            strict, official = programs.computed(
                lambda: (_score(items, programs, strict=True), self._official(items, programs))
            )
            return Measured({TARGET: official}, {TARGET: strict}, programs.left_out)

    def _official(self, items: Sequence[Item], programs: CaptionPrograms) -> TaskValues[int]:
        answered = sorted((item for item in items if item.pred is not None), key=lambda item: item.place)
        last = {item.id: item for item in answered}
        # The first answer to a name gives it its place; the place of a caption can matter to the tokeniser.
        kept = [last[name] for name in dict.fromkeys(item.id for item in answered)]
        excluded = {item.index: reason for item in kept if (reason := _length_problem(item.pred or ""))}
        values = _score([item for item in kept if item.index not in excluded], programs, strict=False)
        missing = tuple(item.index for item in items if item.pred is None)
        return replace(values, missing=missing, excluded=excluded)

    def official_records(
        self, predictions: Sequence[Prediction], references: Mapping[int, Mapping[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        for one in predictions:
            if one.error is None:
                yield {"video_name": one.video, "groundtruth": one.answer, "pred": one.pred}

    def from_official(self, record: Mapping[str, Any]) -> OfficialAnswer | None:
        # A sample that failed is written without an answer.
        answer = answer_of(record, "pred") if "pred" in record else None
        return OfficialAnswer((str(record["video_name"]),), answer)

    def _find(self, data: Path) -> Path:
        places = [data, *(data / name for name in self.folders), data / self.folders[1] / self.folders[0]]
        for candidate in [data, *(place / self.annotations for place in places)]:
            if candidate.is_file():
                return candidate
        raise UserError(
            f"{data}: no {self.annotations} here or in {', '.join(f'{name}/' for name in self.folders)}; give the "
            f"file, or the folder that holds the {self.title} data"
        )

    def _root(self, path: Path, data: Path, annotations: Sequence[Annotation]) -> Path:
        """The folder that paths of the annotations are relative to."""
        near = [path.parent, path.parent.parent, *([data] if data.is_dir() else [])]
        candidates = list(dict.fromkeys(place for one in near for place in (one, one / self.folders[1])))
        named = [name for annotation in annotations for _, name in annotation.media if name]
        return next((one for name in named for one in candidates if (one / name).exists()), path.parent)


def _question(path: Path, index: int, entry: Mapping[str, Any], annotation: Annotation) -> Question:
    name = str(field_of(path, index, entry, "video_name", (str, int)))
    caption = annotation.turns[1].text
    return Question(index, name, name, None, QUESTION, caption, type=TARGET, reference={"sentence": caption})


def _length_problem(answer: str) -> str | None:
    """Why the published scorer does not take an answer of this length; None: it does."""
    if SHORTEST <= len(answer) <= LONGEST:
        return None
    return f"the published scorer takes answers of {SHORTEST} to {LONGEST} characters"


def _score(items: Sequence[Item], programs: CaptionPrograms, strict: bool) -> TaskValues[int]:
    metrics: dict[str, CaptionMetric] = {"BLEU4": bleu4, "Rouge": rouge_l, "CIDEr": cider, **programs.of_tokens}
    found = score_captions(
        {item.index: item.pred for item in items if item.pred is not None},
        {item.index: item.reference["sentence"] for item in items},
        metrics,
        of_texts=programs.of_texts,
        strict=strict,
    )
    counts = found.metrics["BLEU4"].statistics  # those of all orders
    orders = {f"BLEU{order}": MetricValues.of(counts, bleu_of_sums(order)) for order in range(1, ORDERS + 1)}
    return replace(found, metrics=found.metrics | orders)


_SOURCE = "Qiu et al., Artemis: Towards Referential Understanding in Complex Videos, NeurIPS 2024, arXiv:2406.00258"
VIDEOREF_BENCH = TargetCaptions("videoref_bench", "VideoRefBench", _SOURCE, choice="average")
VIDEOREF_BENCH_WHOLE = TargetCaptions(
    "videoref_bench_whole", "VideoRefBench, whole tracks", f"{_SOURCE}; boxes over the whole track", choice="whole"
)
