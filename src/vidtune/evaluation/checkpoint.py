"""Checkpoints that are evaluated: load one, and build the engine that answers by a protocol."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vidtune.checkpoints.files.hub import locate
from vidtune.errors import UserError
from vidtune.evaluation.protocol import Protocol
from vidtune.evaluation.runs.checkpoint_identity import CheckpointIdentity, identify_checkpoint, identify_model
from vidtune.foreign.documents import read_text
from vidtune.foreign.yaml_document import SIZE_LIMIT
from vidtune.generation.settings import GenerationSettings
from vidtune.recipe.files import RECIPE_FILE
from vidtune.registry import SYSTEMS

if TYPE_CHECKING:
    from vidtune.checkpoints.load import Checkpoint
    from vidtune.checkpoints.placement.place import Placement
    from vidtune.generation.engine import AnswerEngine
    from vidtune.processing.processor import VideoLMProcessor
    from vidtune.systems.base import System


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint in memory; can be used for several benchmarks.

    Args:
        identity: which weights these are; stored with every run.
        recipe: text of the ``recipe.yaml`` beside the weights; None: there is none.
    """

    checkpoint: "Checkpoint"
    system: "System"
    identity: CheckpointIdentity
    recipe: str | None


@dataclass(frozen=True)
class AnsweringOptions:
    """How the engine computes answers; see `generation.engine`. They never change a prediction.

    Args:
        workers: number of processes that decode videos; 0 decodes in this process.
        media_timeout: seconds that one video may take.
        max_batch_questions: number of questions about one video that are answered at a time.
        share_prefix: encode and prefill each video once for all questions about it.
        processes: number of processes on this machine that answer with these options and share its memory.
        store: folder of the feature store: features found there are read in the place of videos, others are stored.
    """

    workers: int = 2
    media_timeout: float = 60.0
    max_batch_questions: int = 32
    share_prefix: bool = True
    processes: int = 1
    store: Path | None = None


DEFAULT_ANSWERING = AnsweringOptions()


def opened(
    model: "LoadedCheckpoint | Checkpoint | Path | str", device: str = "cpu", dtype: str | None = None
) -> LoadedCheckpoint:
    """A checkpoint that is ready to answer.

    Args:
        model: folder or hub id of a checkpoint; or a checkpoint in memory, a ``model`` and its ``processor``, whose
            identity is computed from its weights; or the result of `open_checkpoint`.
        device, dtype: see `open_checkpoint`; unused where the model is in memory already.

    Raises:
        UserError: no checkpoint there, or not one that can be loaded.
    """
    if isinstance(model, LoadedCheckpoint):
        return model
    if isinstance(model, Path | str):
        return open_checkpoint(locate(str(model)), device, dtype)
    return LoadedCheckpoint(
        checkpoint=model,
        system=SYSTEMS[model.processor.system],
        identity=identify_model(model.model, model.processor.tokenizer),
        recipe=None,
    )


def open_checkpoint(
    path: Path,
    device: str = "cpu",
    dtype: str | None = None,
    *,
    system: str | None = None,
    base: Sequence[str] | None = None,
    towers: Mapping[str, str] | None = None,
    tokenizer: str | None = None,
    placement: "Placement | None" = None,
    said: Callable[[str], object] | None = None,
) -> LoadedCheckpoint:
    """Load a checkpoint of any known format.

    Args:
        dtype: name of a torch type, for example "bfloat16"; None keeps the stored one.
        system: name of the system, for a checkpoint that several systems claim.
        base: folders, files or names of the models that an incomplete checkpoint builds on, lowest first.
        towers: tower -> its weights, for a checkpoint that comes without them.
        tokenizer: tokenizer of the language model, where the checkpoint's folder holds none.
        placement, said: see `load_checkpoint`.

    Raises:
        UserError: there is no checkpoint, or it cannot be loaded.
    """
    identity = identify_checkpoint(path, [*(base or ()), *(towers or {}).values()])
    from vidtune.checkpoints.load import load_checkpoint
    from vidtune.machine.devices import pick_dtype

    checkpoint = load_checkpoint(
        path,
        system=system,
        base=base,
        towers=towers,
        tokenizer=tokenizer,
        dtype=pick_dtype(dtype),
        device=device,
        placement=placement,
        said=said,
    )
    recipe = path / RECIPE_FILE
    return LoadedCheckpoint(
        checkpoint=checkpoint,
        system=SYSTEMS[checkpoint.processor.system],
        identity=identity,
        recipe=read_text(recipe, limit=SIZE_LIMIT) if recipe.is_file() else None,
    )


def engine_for(
    loaded: LoadedCheckpoint,
    protocol: Protocol,
    options: AnsweringOptions = DEFAULT_ANSWERING,
    kind: "Callable[..., AnswerEngine] | None" = None,
) -> "AnswerEngine":
    """Returns the engine that answers by the protocol. Close it after use.

    Args:
        kind: what is called in the place of `AnswerEngine`, with its arguments.
    """
    from vidtune.features.answering import AnsweringFeatures
    from vidtune.generation.engine import AnswerEngine
    from vidtune.media.kept.place import DecodedFolder
    from vidtune.models.changed_towers import with_towers
    from vidtune.models.language_model.rope import with_rope

    model, processor = with_towers(loaded.checkpoint.model, protocol.towers), processor_for(loaded, protocol)
    computing = asdict(options)
    store = computing.pop("store")
    return (kind or AnswerEngine)(
        with_rope(model, protocol.rope),
        processor,
        GenerationSettings(**protocol.generation.model_dump()),
        prompt=protocol.prompt_format,
        layer_program=protocol.layer_program,
        window=None,  # questions come sorted by their media; what is taken ahead, no other process can ask
        decoded=DecodedFolder.from_environment(),
        stored=None if store is None else AnsweringFeatures(store, model, processor),
        **computing,
    )


def processor_for(loaded: LoadedCheckpoint, protocol: Protocol) -> "VideoLMProcessor":
    """The processor of the checkpoint, with the protocol's preprocessing and without the streams it switches off."""
    processor = loaded.checkpoint.processor
    for name in (protocol.stream, *protocol.question_media):
        if name not in processor.streams:
            known = ", ".join(processor.streams)
            raise UserError(f"{protocol.benchmark} needs the stream {name!r}; this checkpoint has: {known}")
    changes = {protocol.stream: protocol.preprocessing, **protocol.question_media}
    changes |= {name: protocol.companions.get(name, {}) for name in companions_of(loaded, protocol)}
    blind = {"blind": protocol.blind}
    processor = processor.with_preprocessing({name: {**change, **blind} for name, change in changes.items()})
    return processor.without(protocol.without) if protocol.without else processor


def companions_of(loaded: LoadedCheckpoint, protocol: Protocol) -> list[str]:
    """Names of the checkpoint's streams that read the same file as the protocol's stream."""
    known = loaded.checkpoint.processor.streams
    return [name for name in loaded.system.dialect.companions.get(protocol.stream, ()) if name in known]
