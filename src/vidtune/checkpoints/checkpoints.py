"""Checkpoints in and out: ours, and every format that a registered system declares; strict, with a report."""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vidtune.checkpoints.files.hub import locate
from vidtune.checkpoints.files.tensors import read_state, write_state
from vidtune.checkpoints.formats import CheckpointFormat, KeyMap
from vidtune.checkpoints.lora import adapters
from vidtune.checkpoints.quiet import without_progress_bar
from vidtune.errors import UserError
from vidtune.models.config import VideoLMConfig
from vidtune.models.video_lm import VideoLM
from vidtune.registry import SYSTEMS
from vidtune.spelling import suggestion

if TYPE_CHECKING:
    from vidtune.processing.processor import VideoLMProcessor

OURS = "vidtune"
# One dtype for all parameters, or each component's by its name; None keeps that of the files.
Dtypes = torch.dtype | Callable[[str], torch.dtype] | None


@dataclass
class LoadReport:
    """What became of the keys of a checkpoint.

    Args:
        format: name of the format it was read as.
        loaded, ignored: numbers of keys.
        missing: our keys that the file does not hold.
        unexpected: its keys that have no place in the model.
        warnings: what a user of such a checkpoint has to know.
        left_out: numbers of the ignored keys by what they hold, where the format says so.
        drawn: our keys that such a file never holds; they got random weights.
    """

    format: str
    loaded: int = 0
    ignored: int = 0
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    drawn: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = f"{self.loaded} loaded, {self.ignored} ignored, {len(self.missing)} missing"
        parts = [counts, f"{len(self.unexpected)} unexpected"]
        parts += [f"{number} of {what} left out" for what, number in self.left_out.items()]
        parts += [f"{len(self.drawn)} drawn at random"] if self.drawn else []
        return f"format {self.format}: {', '.join(parts)}"

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
    """Tensors under our names; ignored and unexpected keys go into the report.

    Raises:
        UserError: two names of one weight hold different values.
    """
    ours: dict[str, Tensor] = {}
    if keys.rewrite is not None:
        try:
            state = keys.rewrite(state)
        except ValueError as error:
            raise UserError(str(error)) from None
    for name, tensor in state.items():
        new = keys.to_ours(name)
        if new is not None:
            if new in ours and not torch.equal(ours[new], tensor):
                raise UserError(f"{name} and {keys.to_theirs(new)} are one weight but hold different values")
            ours[new] = tensor
        elif keys.is_ignored(name):
            report.ignored += 1
            what = keys.why_left_out(name)
            if what is not None:
                report.left_out[what] = report.left_out.get(what, 0) + 1
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


def find_format(
    config: dict[str, Any], keys: list[str], where: Path, adapter: bool = False, system: str | None = None
) -> tuple[str, CheckpointFormat]:
    """The (system name, format) that recognises a config.json and the keys beside it.

    Args:
        adapter: whether a low-rank adapter lies beside them.
        system: look among its formats alone; None: among those of all systems.
    """
    for name in [system] if system else SYSTEMS.names():
        for candidate in SYSTEMS[name].publication.formats:
            if candidate.adapter == adapter and candidate.matches(config, keys):
                return name, candidate
    what = f"of system {system}" if system else "of a known system"
    raise UserError(f"{where}: not a checkpoint {what} (model_type {config.get('model_type')!r})")


def holds_video_lm(path: Path) -> bool:
    """Whether a folder holds a video language model in a known format, and not a language model alone."""
    from vidtune.checkpoints.lora import bundle

    try:
        config = read_config(path)
        if config.get("model_type") == OURS or bundle.is_bundle(path) or adapters.is_adapter(path):
            return True
        find_format(config, list(read_state(path)), path)
    except UserError:
        return False
    return True


def load_checkpoint(
    name_or_path: str | Path,
    *,
    base: str | Sequence[str] | None = None,
    towers: Mapping[str, str] | None = None,
    tokenizer: str | None = None,
    dtype: Dtypes = None,
    device: str = "cpu",
) -> Checkpoint:
    """Load a whole model: one of ours, or a published one in its own format; low-rank adapters are merged.

    Args:
        name_or_path: folder or hub id; connectors alone, or a published LoRA run, need ``base``.
        base: what a connectors-only or LoRA checkpoint stands on, bottom up, see :mod:`vidtune.checkpoints.stack`; for
            our own LoRA results where their base, or its language model, has moved.
        towers: tower -> file, folder or hub id of its weights, for a model that comes without it.
        tokenizer: folder or hub id, when the checkpoint's folder holds none.
        dtype: of all parameters, or of each component's; None keeps the file's.

    Raises:
        UserError: unknown format, missing or unexpected keys, no tokenizer; one line that names the path.
    """
    from vidtune.checkpoints.added_towers import add_towers
    from vidtune.checkpoints.build import build_processor
    from vidtune.checkpoints.stack import load_stack, read_layer

    path, below = locate(str(name_or_path)), [base] if isinstance(base, str) else list(base or ())
    if is_ours(path):
        loaded = _load_ours(path, below, dtype)
    elif layer := read_layer(path):
        model, report = load_stack([*below, path], layer.system, dtype)
        loaded = Checkpoint(model, build_processor(model.config, tokenizer or below[0]), report)
    else:
        model, report = _load_whole(path, dtype)
        loaded = Checkpoint(model, build_processor(model.config, str(tokenizer or path)), report)
    if towers:
        add_towers(loaded, towers, dtype)
    loaded.model.to(device).eval()
    return loaded


def is_ours(path: Path) -> bool:
    """Whether a folder holds a model that this package wrote."""
    return path.is_dir() and (path / "config.json").is_file() and read_config(path).get("model_type") == OURS


def _load_ours(path: Path, below: list[str], dtype: Dtypes) -> Checkpoint:
    from vidtune.checkpoints.lora.bundle import is_bundle, load_bundle
    from vidtune.processing.processor import VideoLMProcessor

    if len(below) > 1:
        raise UserError(f"{path}: knows what it stands on; give --model-base once, where that has moved")
    given = below[0] if below else None
    model, report = load_bundle(path, given, dtype) if is_bundle(path) else load_ours_model(path, dtype)
    return Checkpoint(model, VideoLMProcessor.from_pretrained(path), report)


def load_ours_model(path: Path, dtype: Dtypes = None) -> tuple[VideoLM, LoadReport]:
    """A model that :meth:`VideoLM.save_pretrained` wrote, strictly."""
    report = LoadReport(OURS)
    if callable(dtype):
        model = model_from_state(VideoLMConfig.from_pretrained(path), read_state(path), report, dtype)
    else:
        options = {} if dtype is None else {"dtype": dtype}
        with without_progress_bar():
            model, info = VideoLM.from_pretrained(path, output_loading_info=True, local_files_only=True, **options)
        report.missing, report.unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    report.loaded = len(model.state_dict()) - len(report.missing)
    report.refuse_gaps(path)
    return model, report


def _load_whole(path: Path, dtype: Dtypes) -> tuple[VideoLM, LoadReport]:
    """A published model in one folder."""
    config, state = read_config(path) if path.is_dir() else {}, read_state(path)
    _, format = find_format(config, list(state), path)
    report = LoadReport(format.name)
    if format.read_config is None:
        raise UserError(f"{path}: a checkpoint of format {format.name} holds no whole model")
    try:
        ours = format.read_config(config, {name: tuple(tensor.shape) for name, tensor in state.items()})
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: {error}") from None
    model = model_from_state(ours, rename(state, format.keys, report), report, dtype)
    report.drawn = [key for key in report.missing if any(re.match(pattern, key) for pattern in format.drawn)]
    report.missing = [key for key in report.missing if key not in report.drawn]
    report.warnings = format.warnings(model.config)
    report.refuse_gaps(path)
    return model, report


def model_from_state(
    config: VideoLMConfig, state: dict[str, Tensor], report: LoadReport, dtype: Dtypes = None
) -> VideoLM:
    """A model with these tensors; parameters that ``state`` lacks are initialised and reported as missing.

    Raises:
        UserError: a tensor has another shape than the config asks for; names it.
    """
    with torch.device("meta"):
        empty = VideoLM(config)
    shapes = {name: tensor.shape for name, tensor in empty.state_dict().items()}
    for name, tensor in state.items():
        if name in shapes and shapes[name] != tensor.shape:
            raise UserError(f"{name}: shape {tuple(tensor.shape)} in the file, {tuple(shapes[name])} by its config")
    if callable(dtype):
        common = min((dtype(component) for component in empty.components()), key=lambda kind: kind.itemsize)
    else:
        # Connectors beside a language model in half precision may be stored in full.
        names = sorted(state, key=lambda name: not name.startswith("language_model."))
        stored = (state[name].dtype for name in names if state[name].is_floating_point())
        common = dtype or next(stored, torch.float32)
    with without_progress_bar():
        model, info = VideoLM.from_pretrained(
            None, config=config, state_dict=state, dtype=common, output_loading_info=True
        )
    if callable(dtype):
        cast(model, state, dtype)
    report.missing += sorted(info["missing_keys"])
    report.unexpected += sorted(info["unexpected_keys"])
    return model


def cast(model: VideoLM, state: dict[str, Tensor], dtype: torch.dtype | Callable[[str], torch.dtype]) -> VideoLM:
    """Give the parameters of every component its dtype, with the values that ``state`` has of them; buffers stay."""
    for component, part in model.components().items():
        wanted = dtype(component) if callable(dtype) else dtype
        for name, parameter in part.named_parameters():
            if parameter.dtype != wanted:
                parameter.data = state.get(f"{component}.{name}", parameter.data).to(wanted)
    return model


def export_state(model: VideoLM, format: CheckpointFormat) -> dict[str, Tensor]:
    """The model's tensors under the format's names; a partial format takes its components only."""
    wanted = tuple(component + "." for component in format.partial)
    exported = {}
    for name, tensor in model.state_dict().items():
        if (wanted and not name.startswith(wanted)) or (format.without_towers and name.startswith("towers.")):
            continue
        theirs = format.keys.to_theirs(name)
        if theirs is None:
            raise UserError(f"format {format.name} has no place for {name!r}")
        exported[theirs] = tensor
    return exported if format.keys.restore is None else format.keys.restore(exported)


def export_format(system: str, name: str) -> CheckpointFormat:
    """A writable format of a system by name; UserError names the nearest."""
    known = SYSTEMS[system].publication.formats
    formats = {format.name: format for format in known if format.write_config or format.partial}
    if name not in formats:
        raise UserError(f"cannot write format {name!r} of system {system!r}; {suggestion(name, [*formats, OURS])}")
    return formats[name]


def towers_left_out(checkpoint: Checkpoint, format_name: str) -> list[str]:
    """Towers of a model that a format has no place for, and that a written checkpoint is without."""
    config = checkpoint.model.config
    if format_name == OURS or not export_format(config.system, format_name).without_towers:
        return []
    return [name for name in config.towers if name not in config.absent_towers]


def save_checkpoint(
    checkpoint: Checkpoint, out: Path, format_name: str = OURS, source: str | Path | None = None
) -> None:
    """Write a checkpoint folder; a partial format writes its one file there.

    Args:
        source: what the checkpoint was loaded from, when that was a LoRA run which is to stay one.

    Raises:
        UserError: ``out`` exists and is not empty, or the format cannot hold this model.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists already; choose another folder or remove it")
    format = None if format_name == OURS else export_format(checkpoint.model.config.system, format_name)
    partial_out = out.with_name(out.name + ".partial")
    shutil.rmtree(partial_out, ignore_errors=True)
    partial_out.mkdir(parents=True)
    try:
        _write(checkpoint, partial_out, format, source)
    except (ValueError, UserError) as error:
        shutil.rmtree(partial_out)
        raise UserError(f"cannot write format {format_name}: {error}") from None
    if out.exists():
        out.rmdir()
    partial_out.rename(out)


def _write(checkpoint: Checkpoint, folder: Path, format: CheckpointFormat | None, source: str | Path | None) -> None:
    from vidtune.checkpoints.lora.export import write_lora_run

    if format is None:
        checkpoint.model.save_pretrained(folder)
        checkpoint.processor.save_pretrained(folder)
    elif format.adapter:
        if source is None:
            raise ValueError("the model was not loaded from a LoRA run")
        write_lora_run(checkpoint, locate(str(source)), format, folder)
    elif format.partial:
        torch.save(export_state(checkpoint.model, format), folder / format.file_name)
    else:
        assert format.write_config is not None
        config = format.write_config(checkpoint.model.config, {})
        write_state(export_state(checkpoint.model, format), folder)
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        checkpoint.processor.tokenizer.save_pretrained(folder)
