"""Checkpoints in and out: ours, and every format that a registered system declares; strict, with a report."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vidtune.errors import UserError
from vidtune.models import adapters
from vidtune.models.config import VideoLMConfig
from vidtune.models.formats import CheckpointFormat, KeyMap
from vidtune.models.hub import locate
from vidtune.models.tensor_files import read_state, write_state
from vidtune.models.video_lm import VideoLM
from vidtune.spelling import suggestion

if TYPE_CHECKING:
    from vidtune.processing.processor import VideoLMProcessor

OURS = "vidtune"


@dataclass
class LoadReport:
    """What became of the keys of a checkpoint.

    Args:
        format: name of the format it was read as.
        loaded, ignored: numbers of keys.
        missing: our keys that the file does not hold.
        unexpected: its keys that have no place in the model.
        warnings: what a user of such a checkpoint has to know.
    """

    format: str
    loaded: int = 0
    ignored: int = 0
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = f"{self.loaded} loaded, {self.ignored} ignored, {len(self.missing)} missing"
        return f"format {self.format}: {counts}, {len(self.unexpected)} unexpected"

    def refuse_gaps(self, path: Path) -> None:
        """Raise UserError when anything is missing or unexpected; names counts and the first key of each."""
        for what, keys in (("missing", self.missing), ("unexpected", self.unexpected)):
            if keys:
                raise UserError(f"{path}: {len(keys)} keys {what} as {self.format} checkpoint, first {keys[0]!r}")


@dataclass
class Checkpoint:
    """A loaded model with the processor that belongs to it."""

    model: VideoLM
    processor: "VideoLMProcessor"
    report: LoadReport


def rename(state: dict[str, Tensor], keys: KeyMap, report: LoadReport) -> dict[str, Tensor]:
    """Tensors under our names; ignored and unexpected keys go into the report."""
    ours = {}
    for name, tensor in state.items():
        new = keys.to_ours(name)
        if new is not None:
            ours[new] = tensor
        elif keys.is_ignored(name):
            report.ignored += 1
        else:
            report.unexpected.append(name)
    report.loaded = len(ours)
    return ours


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json; UserError when missing or broken."""
    path = folder / "config.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{folder}: no config.json here; give the folder of a checkpoint") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}:{error.colno}: {error.msg}") from None


def find_format(config: dict[str, Any], keys: list[str], where: Path) -> tuple[str, CheckpointFormat]:
    """The (system name, format) that recognises a config.json and the keys beside it."""
    from vidtune.systems import get_system, list_systems

    for name in list_systems():
        for candidate in get_system(name).formats:
            if candidate.matches(config, keys):
                return name, candidate
    raise UserError(f"{where}: not a checkpoint of a known system (model_type {config.get('model_type')!r})")


def load_checkpoint(
    name_or_path: str | Path,
    *,
    base: str | None = None,
    tokenizer: str | None = None,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> Checkpoint:
    """Load a whole model: one of ours, or a published one in its own format.

    Args:
        name_or_path: folder or hub id; connectors alone, or a LoRA adapter (which is merged), need ``base``.
        base: language model that a connectors-only or LoRA checkpoint was trained for.
        tokenizer: folder or hub id, when the checkpoint's folder holds none.
        dtype: of all parameters; None keeps the file's.

    Raises:
        UserError: unknown format, missing or unexpected keys, no tokenizer; one line that names the path.
    """
    from vidtune.models.build import build_partial, build_processor

    path = locate(str(name_or_path))
    if path.is_dir() and (path / "config.json").is_file() and read_config(path).get("model_type") == OURS:
        return _load_ours(path, dtype, device)
    names = ("model.safetensors", "pytorch_model.bin", *_partial_names())
    config = read_config(path) if path.is_dir() else {}
    adapter = adapters.is_adapter(path)
    state = adapters.read_trainables(path) if adapter else read_state(path, names)
    system, format = find_format(config, list(state), path)
    report = LoadReport(format.name)
    if format.partial:
        if base is None:
            raise UserError(
                f"{path}: holds {', '.join(format.partial)} only; name its language model with --model-base"
            )
        model = build_partial(system, config, base, rename(state, format.keys, report), dtype)
        if adapter:
            adapters.merge(model, adapters.read_updates(path), _whole_keys(system), path)
        tokenizer = tokenizer or base
    else:
        model = _load_whole(format, config, state, report, path, dtype)
    report.warnings = format.warnings(model.config)
    report.refuse_gaps(path)
    processor = build_processor(model.config, str(tokenizer or path))
    return Checkpoint(model.to(device).eval(), processor, report)


def _whole_keys(system: str) -> KeyMap:
    from vidtune.systems import get_system

    return next(format.keys for format in get_system(system).formats if not format.partial)


def _partial_names() -> tuple[str, ...]:
    from vidtune.systems import get_system, list_systems

    formats = [format for name in list_systems() for format in get_system(name).formats if format.partial]
    return tuple(dict.fromkeys(format.file_name for format in formats))


def _load_ours(path: Path, dtype: torch.dtype | None, device: str) -> Checkpoint:
    from vidtune.processing.processor import VideoLMProcessor

    model, report = load_ours_model(path, dtype)
    return Checkpoint(model.to(device).eval(), VideoLMProcessor.from_pretrained(path), report)


def load_ours_model(path: Path, dtype: torch.dtype | None = None) -> tuple[VideoLM, LoadReport]:
    """A model that :meth:`VideoLM.save_pretrained` wrote, strictly."""
    options = {} if dtype is None else {"dtype": dtype}
    model, info = VideoLM.from_pretrained(path, output_loading_info=True, local_files_only=True, **options)
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    report = LoadReport(OURS, len(model.state_dict()) - len(missing), 0, missing, unexpected)
    report.refuse_gaps(path)
    return model, report


def _load_whole(
    format: CheckpointFormat,
    config: dict[str, Any],
    state: dict[str, Tensor],
    report: LoadReport,
    path: Path,
    dtype: torch.dtype | None,
) -> VideoLM:
    assert format.read_config is not None
    try:
        ours = format.read_config(config, {name: tuple(tensor.shape) for name, tensor in state.items()})
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: {error}") from None
    return model_from_state(ours, rename(state, format.keys, report), report, dtype)


def model_from_state(
    config: VideoLMConfig, state: dict[str, Tensor], report: LoadReport, dtype: torch.dtype | None = None
) -> VideoLM:
    """A model with these tensors; parameters that ``state`` lacks are initialised and reported as missing.

    Raises:
        UserError: a tensor has another shape than the config asks for; names it.
    """
    dtype = dtype or next((tensor.dtype for tensor in state.values() if tensor.is_floating_point()), torch.float32)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in VideoLM(config).state_dict().items()}
    for name, tensor in state.items():
        if name in shapes and shapes[name] != tensor.shape:
            raise UserError(f"{name}: shape {tuple(tensor.shape)} in the file, {tuple(shapes[name])} by its config")
    model, info = VideoLM.from_pretrained(None, config=config, state_dict=state, dtype=dtype, output_loading_info=True)
    report.missing += sorted(info["missing_keys"])
    report.unexpected += sorted(info["unexpected_keys"])
    return model


def export_state(model: VideoLM, format: CheckpointFormat) -> dict[str, Tensor]:
    """The model's tensors under the format's names; a partial format takes its components only."""
    wanted = tuple(component + "." for component in format.partial)
    exported = {}
    for name, tensor in model.state_dict().items():
        if wanted and not name.startswith(wanted):
            continue
        theirs = format.keys.to_theirs(name)
        if theirs is None:
            raise UserError(f"format {format.name} has no place for {name!r}")
        exported[theirs] = tensor
    return exported


def export_format(system: str, name: str) -> CheckpointFormat:
    """A writable format of a system by name; UserError names the nearest."""
    from vidtune.systems import get_system

    formats = {format.name: format for format in get_system(system).formats if format.write_config or format.partial}
    if name not in formats:
        raise UserError(f"cannot write format {name!r} of system {system!r}; {suggestion(name, [*formats, OURS])}")
    return formats[name]


def save_checkpoint(checkpoint: Checkpoint, out: Path, format_name: str = OURS) -> None:
    """Write a checkpoint folder; a partial format writes its one file there.

    Raises:
        UserError: ``out`` exists and is not empty, or the format cannot hold this model.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists already; choose another folder or remove it")
    format = None if format_name == OURS else export_format(checkpoint.model.config.system, format_name)
    try:
        config = format.write_config(checkpoint.model.config) if format and format.write_config else {}
    except ValueError as error:
        raise UserError(f"cannot write format {format_name}: {error}") from None
    partial_out = out.with_name(out.name + ".partial")
    shutil.rmtree(partial_out, ignore_errors=True)
    partial_out.mkdir(parents=True)
    if format is None:
        checkpoint.model.save_pretrained(partial_out)
        checkpoint.processor.save_pretrained(partial_out)
    elif format.partial:
        torch.save(export_state(checkpoint.model, format), partial_out / format.file_name)
    else:
        write_state(export_state(checkpoint.model, format), partial_out)
        (partial_out / "config.json").write_text(json.dumps(config, indent=1))
        checkpoint.processor.tokenizer.save_pretrained(partial_out)
    if out.exists():
        out.rmdir()
    partial_out.rename(out)
