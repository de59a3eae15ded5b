"""Write a checkpoint in any format. A folder appears complete or not at all."""

import json
from pathlib import Path

import torch
from torch import Tensor

from vidtune.checkpoints.files.quiet import without_progress_bar
from vidtune.checkpoints.files.tensors import write_state
from vidtune.checkpoints.load import Checkpoint
from vidtune.checkpoints.publication import CheckpointFormat
from vidtune.checkpoints.report import OURS
from vidtune.checkpoints.write_lora_run import write_lora_run
from vidtune.errors import UserError
from vidtune.machine.files import atomic_folder
from vidtune.models.language_model.head import tied_names
from vidtune.models.video_lm import VideoLM
from vidtune.registry import SYSTEMS
from vidtune.spelling import suggestion


def save_checkpoint(checkpoint: Checkpoint, out: Path, format_name: str = OURS) -> None:
    """Write a checkpoint folder. A partial format writes its one file there; a LoRA format the run that was loaded.

    Raises:
        UserError: ``out`` exists and is not empty, or the format cannot hold this model.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists already; choose another folder or remove it")
    format = None if format_name == OURS else export_format(checkpoint.model.config.system, format_name)
    try:
        with atomic_folder(out) as folder:
            _write(checkpoint, folder, format)
    except FileExistsError:
        raise UserError(f"{out}: exists already; choose another folder or remove it") from None
    except (ValueError, UserError) as error:
        raise UserError(f"cannot write format {format_name}: {error}") from None


def _write(checkpoint: Checkpoint, folder: Path, format: CheckpointFormat | None) -> None:
    model = checkpoint.model
    if format is None:
        with without_progress_bar():
            model.save_pretrained(folder)
        checkpoint.processor.save_pretrained(folder)
    elif format.adapter:
        if checkpoint.source is None:
            raise ValueError("the model was not loaded from a LoRA run")
        write_lora_run(model, checkpoint.source, format, export_state(model, format), folder)
    elif format.partial:
        torch.save(export_state(model, format), folder / format.file_name)
    else:
        assert format.write_config is not None
        config = format.write_config(model.config, {})
        write_state(export_state(model, format), folder)
        (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        checkpoint.processor.tokenizer.save_pretrained(folder)


def export_state(model: VideoLM, format: CheckpointFormat) -> dict[str, Tensor]:
    """Return the model's tensors under the format's names; for a partial format only those of its components.

    A tied weight stands there once, under its first name.
    """
    wanted = tuple(component + "." for component in format.partial)
    repeated = {name for names in tied_names(model) for name in names[1:]}
    exported = {}
    for name, tensor in model.state_dict().items():
        if (wanted and not name.startswith(wanted)) or (format.without_towers and name.startswith("towers.")):
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
    known = SYSTEMS[system].publication.formats
    formats = {format.name: format for format in known if format.write_config or format.partial}
    if name not in formats:
        raise UserError(f"cannot write format {name!r} of system {system!r}; {suggestion(name, [*formats, OURS])}")
    return formats[name]


def towers_left_out(checkpoint: Checkpoint, format_name: str) -> list[str]:
    """Return the towers of a model for which a format has no place, so that a written checkpoint is without them."""
    config = checkpoint.model.config
    if format_name == OURS or not export_format(config.system, format_name).without_towers:
        return []
    return [name for name in config.towers if name not in config.absent_towers]
