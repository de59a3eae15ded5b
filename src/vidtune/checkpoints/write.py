"""Write a checkpoint in any format. A folder appears complete or not at all."""

import json
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidtune.checkpoints.assembly.apply import key_map
from vidtune.checkpoints.assembly.fill import under_every_name
from vidtune.checkpoints.files.quiet import without_progress_bar
from vidtune.checkpoints.files.tensors import write_state
from vidtune.checkpoints.load import Checkpoint
from vidtune.checkpoints.lora.added_rows import rows_of, weights_with_rows
from vidtune.checkpoints.lora.bundle import LANGUAGE_MODEL
from vidtune.checkpoints.parts.difference import difference_to
from vidtune.checkpoints.publication import CheckpointFormat
from vidtune.checkpoints.recognise import is_video_model, recognise
from vidtune.checkpoints.report import OURS, LoadReport, rename
from vidtune.checkpoints.source import Source
from vidtune.checkpoints.write_lora_run import write_lora_run
from vidtune.errors import UserError
from vidtune.machine.files import atomic_folder
from vidtune.models.config import ADDED_TOKENS
from vidtune.models.language_model.head import tied_names
from vidtune.models.language_model.quantization import is_quantized
from vidtune.models.low_rank import LowRank
from vidtune.models.video_lm import VideoLM
from vidtune.registry import SYSTEMS
from vidtune.spelling import suggestion


def save_checkpoint(checkpoint: Checkpoint, out: Path, format_name: str = OURS, base: str | None = None) -> None:
    """Write a checkpoint folder. A partial format writes its one file there; a LoRA format the run that was loaded.

    Args:
        base: folder or hub id of the language model to which a format holds differences; None: the one from which the
            checkpoint was loaded.

    Raises:
        UserError: ``out`` exists and is not empty, or the format cannot hold this model; or its weights are in fewer
            bits, or shared with another model.
    """
    _require_own_weights(checkpoint.model)
    format = format_into(out, checkpoint.model.config.system, format_name, base)
    try:
        with atomic_folder(out) as folder:
            try:
                _write(checkpoint, folder, format, base)
            except (ValueError, UserError) as error:
                raise UserError(f"cannot write format {format_name}: {error}") from None
            except RuntimeError as error:
                if "shared tensors" not in str(error):
                    raise
                reason = str(error).partition("[")[2].partition("]")[0]
                raise UserError(
                    f"cannot write format {format_name}: weights lie in one place, which this model keeps apart: "
                    f"{reason}; the file that they were read from is damaged, copy it again"
                ) from None
    except FileExistsError:
        raise UserError(f"{out}: exists already; choose another folder or remove it") from None


def _require_own_weights(model: VideoLM) -> None:
    """Raise UserError for a model whose weights are not those of its checkpoint, but in fewer bits or shared."""
    for layer in model.modules():
        if is_quantized(layer):
            raise UserError("the language model is held in fewer bits, which no format holds; load it without quantize")
        if isinstance(layer, LowRank):
            raise UserError("its adapters stand beside weights of another model; load it without beside to write it")


def format_into(out: Path, system: str, format_name: str, base: str | None = None) -> CheckpointFormat | None:
    """Returns the format in which a model of a system is written into a folder; None: ours. No weight is needed.

    Raises:
        UserError: as `save_checkpoint`, for all that its arguments alone tell.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists already; choose another folder or remove it")
    format = None if format_name == OURS else export_format(system, format_name)
    if base is not None and (format is None or not format.difference):
        raise UserError(f"format {format_name} holds no differences to {base}; leave out --difference-from")
    return format


def _write(checkpoint: Checkpoint, folder: Path, format: CheckpointFormat | None, base: str | None) -> None:
    model = checkpoint.model
    if format is None:
        with without_progress_bar():
            model.save_pretrained(folder)
        checkpoint.processor.save_pretrained(folder)
    elif format.adapter:
        if checkpoint.source is None:
            raise ValueError("the model was not loaded from a LoRA run")
        write_lora_run(model, checkpoint.source, format, export_state(model, format), folder)
    elif format.difference:
        _write_whole(checkpoint, folder, format, _difference(checkpoint, base))
    elif format.partial:
        torch.save(export_state(model, format), folder / format.file_name)
    else:
        _write_whole(checkpoint, folder, format, model.state_dict())


def _write_whole(checkpoint: Checkpoint, folder: Path, format: CheckpointFormat, state: Mapping[str, Tensor]) -> None:
    """Write weights, config and tokenizer."""
    assert format.write_config is not None
    config = format.write_config(checkpoint.model.config, {})
    write_state(export_state(checkpoint.model, format, state), folder)
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    tokenizer = copy(checkpoint.processor.tokenizer)  # what is only written does not change the one in use
    beginning = checkpoint.processor.chunk_tokenizer.beginning
    tokenizer.init_kwargs = {**tokenizer.init_kwargs, "beginning": beginning}
    tokenizer.save_pretrained(folder)


def _difference(checkpoint: Checkpoint, base: str | None) -> dict[str, Tensor]:
    """The weights of a model, those of its language model as differences to a base."""
    if base is not None:
        part: Source | None = recognise(base, component=LANGUAGE_MODEL)
    else:
        part = checkpoint.source.in_order()[0].part(LANGUAGE_MODEL) if checkpoint.source is not None else None
    if part is None:
        raise UserError("name the language model from which the differences are counted: --difference-from BASE")
    if part.files is not None and is_video_model(part.files):
        raise UserError(f"{part.place}: is a whole video model; name the language model alone")
    report = LoadReport(LANGUAGE_MODEL)
    found = rename(part.weights, key_map(part), report)
    report.refuse_gaps(part.path)
    model = checkpoint.model
    whole = under_every_name(found, tied_names(model), part.path)
    return difference_to(whole, model.state_dict(), weights_with_rows(model.config), part.path)


def export_state(
    model: VideoLM, format: CheckpointFormat, state: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return the model's tensors under the format's names; for a partial format only those of its components.

    A tied weight stands there once, under its first name.

    Args:
        state: tensors to write in the place of the model's own, by the same names.
    """
    wanted, without = (tuple(f"{part}." for part in parts) for parts in (format.partial, format.without))
    repeated = {name for names in tied_names(model) for name in names[1:]}
    exported = {}
    tensors = dict(model.state_dict() if state is None else state)
    if ADDED_TOKENS in format.partial:
        tensors |= rows_of(model, format.whole_matrices)
    for name, tensor in tensors.items():
        if (wanted and not name.startswith(wanted)) or name.startswith(without):
            continue
        if name in repeated:
            continue
        theirs = format.keys.to_theirs(name)
        if theirs is None:
            raise UserError(f"format {format.name} has no place for {name!r}")
        exported[theirs] = tensor
    return exported if format.keys.restore is None else format.keys.restore(exported)


def export_format(system: str, name: str) -> CheckpointFormat:
    """Return a writable format of a system by name. Raises UserError for any other, which names the nearest."""
    formats = _formats(system)
    if name not in formats:
        raise UserError(f"cannot write format {name!r} of system {system!r}; {suggestion(name, [*formats, OURS])}")
    return formats[name]


def writable_formats(checkpoint: Checkpoint) -> list[str]:
    """Return the names of the formats in which a model can be written, ours last."""
    return [*_formats(checkpoint.model.config.system), OURS]


def _formats(system: str) -> dict[str, CheckpointFormat]:
    known = SYSTEMS[system].publication.formats
    return {format.name: format for format in known if format.write_config or format.holds_connectors_alone}


def left_out(checkpoint: Checkpoint, format_name: str) -> list[str]:
    """Return the components of a model that a format is without, so that a written checkpoint does not hold them."""
    config = checkpoint.model.config
    format = None if format_name == OURS else export_format(config.system, format_name)
    without = tuple(f"{part}." for part in format.without) if format else ()
    return [name for name in config.component_names if f"{name}.".startswith(without)]


def unkept_rules(checkpoint: Checkpoint, format_name: str) -> dict[str, tuple[Any, Any]]:
    """Return the settings of preprocessing that a format does not hold, by stream and key ("video.num_frames"): those
    of this model, and those of its system, with which a model is asked that is read from the format."""
    if format_name == OURS:
        return {}
    config = checkpoint.model.config
    usual = SYSTEMS[config.system].architecture.preprocessing(config)
    found: dict[str, tuple[Any, Any]] = {}
    for stream, settings in checkpoint.processor.streams.items():
        mine, others = (one.model_dump(mode="json") for one in (settings.preprocessing, usual[stream]))
        found |= {f"{stream}.{key}": (mine[key], others.get(key)) for key in mine if mine[key] != others.get(key)}
    return found
