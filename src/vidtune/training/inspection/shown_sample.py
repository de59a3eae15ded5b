"""What a model sees of one training sample: the tensors of its media as pictures, and its tokens.

Everything is made as training makes it: the same annotation, prompt, limits and preprocessing. Only random
preprocessing is seeded as in the first epoch, and values are shown before they are normalised.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vidtune.data.sample import Sample
from vidtune.data.tables import AnnotationTable
from vidtune.errors import UserError
from vidtune.media.pool import MediaPool
from vidtune.media.preprocessing.kinds import random_setting
from vidtune.media.probe import ProbeCache
from vidtune.planning.lengths import ExampleMaker
from vidtune.planning.randomness import random_seed
from vidtune.processing.shown.item import ShownItem, shown_item
from vidtune.processing.shown.tokens import Span, token_spans
from vidtune.processing.times import time_rule
from vidtune.recipe.types import Recipe, Stage
from vidtune.training.inspection.data_check import processor_of_each_stage
from vidtune.training.setup.checks import check_stages, chosen_stages
from vidtune.training.setup.examples import example_maker, for_stage
from vidtune.training.setup.run_folder import MEDIA_FACTS, TABLES

MOST_NAMED = 5


@dataclass(frozen=True)
class ShownSample:
    """A sample as the model sees it.

    Args:
        id, original_id: ids of the sample, in the table and in its file.
        source: annotation file.
        turns: (role, text) as annotated.
        moments: (mark, second, text that is written for it).
        duration: seconds of the clip that the moments are of.
        limit: in words, what `max_length` did to it; empty: nothing.
    """

    id: str
    original_id: str
    source: Path
    stage: str
    prompt: str
    turns: tuple[tuple[str, str], ...]
    spans: tuple[Span, ...]
    items: tuple[ShownItem, ...]
    moments: tuple[tuple[str, float, str], ...] = ()
    duration: float = 0.0
    limit: str = ""

    def count(self, *kinds: str) -> int:
        """Number of tokens of these kinds; of none: all."""
        return sum(span.count for span in self.spans if not kinds or span.kind in kinds)

    @property
    def media_tokens(self) -> int:
        return self.count() - self.count("text", "supervised")


def shown_sample(recipe: Recipe, wanted: str | None, *, stage: str | None = None, frames: int = 32) -> ShownSample:
    """Make a sample as the model of a stage sees it.

    Args:
        wanted: id of the sample, ``<annotation file>:<index>`` as reports name it, or its id in the annotation file;
            None: the first sample of the data.
        stage: name of a stage; None: the first one that has the sample.
        frames: largest number of frames of a medium that are kept as pictures.

    Raises:
        UserError: no such stage or sample, several samples of that id, or one that cannot be used; says why.
    """
    check_stages(recipe)
    stages = chosen_stages(recipe, stage)
    processors = processor_of_each_stage(recipe)
    with tempfile.TemporaryDirectory(prefix="vidtune-") as folder:
        for one in stages:
            table = AnnotationTable.open(one.data, Path(folder) / TABLES)
            index = _index(table, wanted)
            if index is None:
                continue
            processor = for_stage(processors[one.name], one)
            processor.media_info = ProbeCache(Path(folder) / TABLES / MEDIA_FACTS).get
            return _shown(recipe, one, table, index, example_maker(recipe, one, processor), frames)
    names = ", ".join(one.name for one in stages)
    raise UserError(f"no sample {wanted!r} in the data of {names}; name one as in 'FILE:INDEX', or by its own id")


def _index(table: AnnotationTable, wanted: str | None) -> int | None:
    """Place of a sample in a table; None: it is not there."""
    if wanted is None:
        return 0 if len(table) else None
    if (own := next((index for index in range(len(table)) if table.id(index) == wanted), None)) is not None:
        return own
    found = [index for index in range(len(table)) if table.original_id(index) == wanted]
    if len(found) > 1:
        ids = ", ".join(table.id(index) for index in found[:MOST_NAMED]) + (" ..." if len(found) > MOST_NAMED else "")
        raise UserError(f"{len(found)} samples have the id {wanted!r}; name one of {ids}")
    return found[0] if found else None


def _shown(
    recipe: Recipe, stage: Stage, table: AnnotationTable, index: int, make: ExampleMaker, frames: int
) -> ShownSample:
    sample = table[index]
    is_random = any(random_setting(one) for one in make.processor.preprocessing.values())
    example = make(sample, random_seed(recipe.seed, 0, index) if is_random else None)
    with MediaPool(1, stage.media_timeout) as pool:
        items = tuple(
            shown_item(slot, make.processor.preprocessing[slot.stream], pool, frames) for slot in example.media
        )
    cut = f"cut off at {make.max_length or make.max_expanded_length} tokens" if example.truncated else ""
    return ShownSample(
        id=table.id(index),
        original_id=table.original_id(index),
        source=table.source(index),
        stage=stage.name,
        prompt=make.prompt,
        turns=tuple((turn.role, turn.text) for turn in sample.turns),
        spans=tuple(token_spans(example, make.processor)),
        items=items,
        moments=tuple(_moments(sample, make.processor.times)),
        duration=sample.times.duration if sample.times else 0.0,
        limit="; ".join(filter(None, [cut, f"no token is supervised: {example.masked}" if example.masked else ""])),
    )


def _moments(sample: Sample, rule: str | None) -> Iterator[tuple[str, float, str]]:
    if sample.times is not None and rule is not None:
        write = time_rule(rule).write
        for mark, second in sample.times.marks:
            yield mark, second, write(second, sample.times.duration)
