"""Retrieval over a file of pairs: which medium a text is about, and which text a medium has.

Every line is a medium and a caption; a medium may have several. The towers and the text tower of a contrastive stage
give a vector of each. From text to medium each caption looks for its medium among all media of the run; from medium to
text each medium looks for one of its captions among all captions of the run.

Legend: Q pairs, V media, W width of the vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.measured import Item, Measured
from vidtune.evaluation.benchmarks.own.lines import OwnFile
from vidtune.evaluation.benchmarks.own.test_set import OwnTestSet
from vidtune.evaluation.metrics.base import MetricValues, TaskValues, join, mean_of_sums
from vidtune.evaluation.metrics.retrieval import Ranks, median_rank, rank_rows, vectors_of
from vidtune.evaluation.outcome import Metric
from vidtune.evaluation.protocol import QUESTION, Protocol
from vidtune.evaluation.question import QuestionSet

KS = (1, 5, 10)
DIGITS = 7
"""Decimals to which similarities are compared: the vectors are float32."""
TO_MEDIUM, TO_TEXT = "text to {medium}", "{medium} to text"


@dataclass(frozen=True)
class RetrievalTestSet(OwnTestSet):
    """The pairs of one file.

    Args:
        pairs: number of pairs.
    """

    pairs: int = 0
    judged_instead = False

    @classmethod
    def of(cls, own: OwnFile) -> "RetrievalTestSet":
        return replace(cast(RetrievalTestSet, super().of(own)), pairs=len(own.questions))

    @classmethod
    def stored(cls, protocol: Protocol, file: str | None) -> "RetrievalTestSet":
        return replace(cast(RetrievalTestSet, super().stored(protocol, file)), pairs=protocol.retrieval)

    def load(self, data: Any) -> QuestionSet:
        """Read the file, and find its media; see `OwnTestSet.load`.

        Raises:
            UserError: one caption for all, or one medium alone: there is nothing to find.
        """
        found = super().load(data)
        captions, media = ({getattr(one, key) for one in found.questions} for key in ("question", "video"))
        for what, held in (("caption", captions), ("file", media)):
            if len(held) < 2:
                raise UserError(f"{self.name}: all its pairs have one {what}, {min(held)!r}: there is nothing to find")
        return replace(found, questions=tuple(replace(one, reference={}) for one in found.questions))

    def further_rules(self) -> dict[str, Any]:
        return {**super().further_rules(), "retrieval": self.pairs, "question_template": QUESTION}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        found = []
        for way in self._ways:
            found += [Metric(f"R@{k}, {way}", None, of_all=True) for k in KS]
            found.append(Metric(_median(way), None, float(self.pairs), 1.0, from_sums=median_rank, of_all=True))
        return tuple(found)

    @property
    def measuring(self) -> dict[str, Any]:
        return {"similarity": f"cosine, to {DIGITS} decimals", "ties": "every order is equally probable"}

    def measure(self, items: Sequence[Item]) -> Measured:
        official, strict = ({"": self._found(items, way)} for way in (False, True))
        return Measured(official, strict)

    @property
    def _ways(self) -> tuple[str, str]:
        return TO_MEDIUM.format(medium=self.medium_stream), TO_TEXT.format(medium=self.medium_stream)

    def _found(self, items: Sequence[Item], strict: bool) -> TaskValues[int]:
        """Args: strict: pairs without vectors are queries too, whose candidate is never found."""
        vectors = {item.index: vectors_of(item.pred) for item in items if item.pred is not None}
        read = {index: found for index, found in vectors.items() if found is not None}
        known = {item.index: item for item in items}
        joined = join({item.index: item for item in items if item.pred is not None}, known, strict)
        scored = [known[index] for index in joined.ids]
        media = list(dict.fromkeys(item.video for item in scored if item.index in read))
        place = {video: number for number, video in enumerate(media)}
        with_vectors = [item for item in scored if item.index in read]
        values: dict[str, MetricValues] = {}
        if with_vectors:
            of_media = np.stack([read[next(i.index for i in with_vectors if i.video == video)][0] for video in media])
            of_texts = np.stack([read[item.index][1] for item in with_vectors])
            # Equal vectors are equally alike, whatever the order in which a product is added up.
            similarities = np.round(of_texts @ of_media.T, DIGITS)
            relevant = np.array(
                [[place[item.video] == number for number in range(len(media))] for item in with_vectors]
            )
            firsts = {item.video: item.index for item in reversed(scored)}
            for way, found, queries in (
                (self._ways[0], Ranks.of(similarities, relevant), [item.index for item in with_vectors]),
                (self._ways[1], Ranks.of(similarities.T, relevant.T), [firsts[video] for video in media]),
            ):
                asked = joined.ids if way == self._ways[0] else tuple(firsts.values())
                values |= _values(way, found, queries, asked, joined.ids, max(len(media), len(with_vectors)))
        unread = tuple(index for index, one in vectors.items() if one is None)
        return TaskValues(joined.ids, joined.missing, joined.unknown, unread, values)


def _median(way: str) -> str:
    return f"median rank, {way}"


def _values(
    way: str, found: Ranks, queries: Sequence[int], asked: Sequence[int], ids: Sequence[int], last: int
) -> dict[str, MetricValues]:
    """Values of one direction, with rows for all ids: of those that ask nothing, rows of zeros.

    Args:
        queries: ids of the queries that were found, in the order of ``found``.
        asked: ids of all queries.
        last: rank of a query without vectors.
    """
    row = {index: number for number, index in enumerate(queries)}
    asks = np.array([index in set(asked) for index in ids], float)
    places = np.array([row.get(index, -1) for index in ids])

    def of_ids(values: np.ndarray, missing: float) -> np.ndarray:
        return np.where(places >= 0, values[places], missing) * asks

    values: dict[str, MetricValues] = {}
    for k in KS:
        right = of_ids(found.recall(k), 0.0)
        values[f"R@{k}, {way}"] = MetricValues(right, np.stack([right, asks], axis=-1), mean_of_sums)
    ranks = of_ids(found.rank(), float(last))
    values[_median(way)] = MetricValues(ranks, rank_rows(ranks) * asks[:, None], median_rank)
    return values
