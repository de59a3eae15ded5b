"""A pack that is ready for the model, and the samples in it that had to be left out."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from vidtune.errors import MediaError, UnreadMediaError
from vidtune.processing.batch import Batch, Example, Item, join
from vidtune.training.setup.exclusions import FOREVER, Excluded, FailedFiles


@dataclass(frozen=True, eq=False)
class LoadedPack:
    """A pack that is ready for the model, or a dummy in its place.

    Args:
        step: optimizer step that it belongs to, from 0.
        number: number of the pack in the step, from 0; None for a dummy, which gives every rank the same number.
        is_last: whether it is the last pack of the step on this rank.
        batch: the batch; None for a dummy, or if every sample was left out.
        excluded: samples that were left out.
        num_supervised: number of tokens that the loss of ``batch`` sums over.
        rank: rank that loads it.
        indices, examples: table indices and examples of ``batch``, in its order.
    """

    step: int
    number: int | None
    is_last: bool
    batch: Batch | None = None
    excluded: list[Excluded] = field(default_factory=list)
    num_supervised: int = 0
    rank: int = 0
    indices: list[int] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes of the batch."""
        return 0 if self.batch is None else self.batch.nbytes

    def without(self, failed: FailedFiles) -> "LoadedPack":
        """Returns the pack without the samples that need a file which failed in an earlier step, on any rank."""
        bad = [failed_before(example, failed, self.step) for example in self.examples]
        if self.batch is None or not any(bad):
            return self
        kept = [place for place, path in enumerate(bad) if path is None]
        left_out = [
            left_out_again(example.id, index, self.step, path, failed, self.rank)
            for example, index, path in zip(self.examples, self.indices, bad, strict=True)
            if path is not None
        ]
        examples = [self.examples[place] for place in kept]
        captions = self.batch.captions and [self.batch.captions[place] for place in kept]
        batch = join(examples, self._media(bad), captions) if kept else None
        return replace(
            self,
            batch=batch,
            excluded=self.excluded + left_out,
            num_supervised=batch.num_supervised if batch is not None else 0,
            indices=[self.indices[place] for place in kept],
            examples=examples,
        )

    def _media(self, bad: Sequence[str | None]) -> dict[str, list[Item]]:
        """Returns the media of the examples that need no bad file."""
        assert self.batch is not None
        items = {stream: iter(found) for stream, found in self.batch.media.items()}
        kept: dict[str, list[Item]] = {stream: [] for stream in items}
        for example, path in zip(self.examples, bad, strict=True):
            for slot in example.media:
                item = next(items[slot.stream])
                kept[slot.stream] += [item] if path is None else []
        return {stream: found for stream, found in kept.items() if found}


def failed_before(example: Example, failed: FailedFiles, step: int) -> str | None:
    """Returns the first file of an example that failed in an earlier step and is left out of this one, or None."""
    paths = (slot.ref.path for slot in example.media)
    return next((path for path in paths if any(step in steps for steps in failed.get(path, ()))), None)


def left_out_again(id: str, index: int, step: int, path: str, failed: FailedFiles, rank: int) -> Excluded:
    """Returns the record of a sample that needs a file which failed before."""
    steps = max((steps for steps in failed[path] if step in steps), key=lambda steps: steps.stop)
    failed_in = f"failed in step {steps.start - 1} and is not tried again"
    if steps.stop == FOREVER:
        return Excluded(id, index, step, path, failed_in, rank, cause=MediaError.cause)
    reason, cause = f"{failed_in} in this epoch", UnreadMediaError.cause
    return Excluded(id, index, step, path, reason, rank, cause=cause, again=steps.stop)
