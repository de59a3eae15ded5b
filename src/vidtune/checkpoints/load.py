"""Load a checkpoint: ``load_checkpoint(place) -> Checkpoint``, a model with its processor and a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidtune.checkpoints.apply import assemble
from vidtune.checkpoints.fill import Dtypes
from vidtune.checkpoints.fit_processor import processor_of
from vidtune.checkpoints.recognise import recognise
from vidtune.checkpoints.report import LoadReport
from vidtune.checkpoints.source import Source
from vidtune.errors import UserError
from vidtune.models.video_lm import VideoLM
from vidtune.processing.processor import VideoLMProcessor


@dataclass
class Checkpoint:
    """A loaded model with its processor.

    Args:
        model: the model; low-rank adapters are merged.
        processor: its processor.
        report: which keys were loaded, missing or unexpected.
        source: what it was loaded from; None for a model that was made in memory.
    """

    model: VideoLM
    processor: VideoLMProcessor
    report: LoadReport
    source: Source | None = None


def recognise_checkpoint(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    system: str | None = None,
    base: str | Sequence[str] | None = None,
    towers: Mapping[str, str] | None = None,
) -> Source:
    """Find out what a checkpoint is and what it stands on; no weight is read. Arguments as for load_checkpoint."""
    below = [base] if isinstance(base, str) else list(base or ())
    source = recognise(name_or_path, revision, below, system=system, towers=towers)
    if not source.is_layer and below:
        raise UserError(f"{source.path}: is a whole model; leave out --model-base, which it does not need")
    return source


def load_checkpoint(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    system: str | None = None,
    base: str | Sequence[str] | None = None,
    towers: Mapping[str, str] | None = None,
    tokenizer: str | None = None,
    dtype: Dtypes = None,
    device: str = "cpu",
) -> Checkpoint:
    """Load a whole model: one of ours, or a published one in its own format. Low-rank adapters are merged.

    Args:
        name_or_path: folder, file or hub id; connectors alone, or a published LoRA run, need ``base``.
        revision: branch, tag or commit of a hub id; None: the newest.
        system: name of the system, for a checkpoint that several systems claim; of any other system it is refused.
        base: what a checkpoint of connectors or a LoRA run stands on, bottom up: a language model or a whole
            checkpoint, files of connectors, LoRA runs. For our own LoRA results: where their base, or its language
            model, is now, if it has moved.
        towers: tower -> file, folder or hub id of its weights, for a model that comes without it.
        tokenizer: folder or hub id of the tokenizer, for a checkpoint without one, or in the place of its own.
        dtype: dtype of all parameters, or a function from the name of a component to its dtype; None keeps that of
            the files.

    Raises:
        UserError: unknown format, a base for a whole model, missing or unexpected keys, no tokenizer; one line that
            names the path.
    """
    source = recognise_checkpoint(name_or_path, revision=revision, system=system, base=base, towers=towers)
    model, report = assemble(source, dtype)
    processor = processor_of(source, model.config, tokenizer)
    source.close()
    model.to(device).eval()
    return Checkpoint(model, processor, report, source)
