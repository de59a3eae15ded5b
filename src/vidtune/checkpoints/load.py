"""Load a checkpoint: ``load_checkpoint(place) -> Checkpoint``, a model with its processor and a report."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from vidtune.checkpoints.assembly.apply import assemble, without_weights
from vidtune.checkpoints.assembly.beside import beside, is_base
from vidtune.checkpoints.assembly.fill import Dtypes
from vidtune.checkpoints.fit_processor import processor_of
from vidtune.checkpoints.placement.memory import memory_in_words, needed_memory, require_memory
from vidtune.checkpoints.placement.moving import place_model, stands_there
from vidtune.checkpoints.placement.place import Placement
from vidtune.checkpoints.recognise import recognise
from vidtune.checkpoints.report import LoadReport
from vidtune.checkpoints.source import Source
from vidtune.errors import UserError
from vidtune.models.language_model.quantization import is_quantized
from vidtune.models.video_lm import VideoLM
from vidtune.processing.processor import VideoLMProcessor

LARGE = 2**28
"""Number of weights from which on the memory that they need is worked out before they are read."""


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
    placement: Placement | None = None,
    said: Callable[[str], object] | None = None,
    others: Iterable[tuple[VideoLM, Source | None]] = (),
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
        device: of torch; unused with a placement.
        placement: devices of the parts, and bits of the language model; None: all on ``device`` as it is.
        said: is told, before weights are read, how much memory they need; of large models alone.
        others: models in memory and what they were loaded from. Where one of them is the base of the checkpoint, in
            this dtype and where this one is to stand, its weights are shared, and adapters stay beside them.

    Raises:
        UserError: unknown format, a base for a whole model, missing or unexpected keys, no tokenizer, or more weights
            than a device has memory; one line that names the path.
    """
    placement = placement or Placement(device)
    source = recognise_checkpoint(name_or_path, revision=revision, system=system, base=base, towers=towers)
    found = _sharing(source, others, dtype, placement)
    model, report = found or _assembled(source, dtype, placement, said)
    processor = processor_of(source, model.config, tokenizer).measuring(model.config.measures())
    source.close()
    if found is None:
        place_model(model, placement)
    return Checkpoint(model, processor, report, source)


def _assembled(
    source: Source, dtype: Dtypes, placement: Placement, said: Callable[[str], object] | None
) -> tuple[VideoLM, LoadReport]:
    """The model of a source on the CPU, and its report; of a large one, the memory that it needs is told before."""
    if _number_of_weights(source) >= LARGE:
        needed = needed_memory(without_weights(source), _dtype(source, dtype), placement)
        if said is not None:
            said(memory_in_words(needed))
        require_memory(needed)
    return assemble(source, dtype)


def _sharing(
    source: Source, others: Iterable[tuple[VideoLM, Source | None]], dtype: Dtypes, placement: Placement
) -> tuple[VideoLM, LoadReport] | None:
    """The model of a source on its base among other models; None: it is not among them, or in another form."""
    for model, below in others:
        fits = below is not None and is_base(below, source) and dtype in (None, model.dtype)
        as_it_was = placement.quantize is None and not any(map(is_quantized, model.modules()))
        if fits and as_it_was and stands_there(model, placement) and (found := beside(model, source)) is not None:
            return found
    return None


def _number_of_weights(source: Source) -> int:
    """Number of weights in the files of a model, by their headers."""
    return sum(prod(shape) for one in source.steps() for shape in _shapes(one).values())


def _shapes(source: Source) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the weights in the files of one source; none of adapters, and of files that cannot be read: loading
    them says why.
    """
    try:
        return {} if source.kind == "bundle" else source.shapes
    except UserError:
        return {}


def _dtype(source: Source, asked: Dtypes) -> torch.dtype:
    """The dtype that most weights will have: the one asked for, or that of the smallest matrix in the files."""
    if isinstance(asked, torch.dtype):
        return asked
    for one in source.steps():
        matrices = {name: prod(shape) for name, shape in _shapes(one).items() if len(shape) == 2}
        if matrices:
            return one.weights[min(matrices, key=matrices.__getitem__)].dtype
    return torch.float32
