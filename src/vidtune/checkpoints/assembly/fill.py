"""Fill an empty model with tensors: built on the meta device, filled from files, the rest drawn at random."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vidtune.checkpoints.assembly.composition import unreadable_config
from vidtune.checkpoints.files.quiet import without_load_report, without_progress_bar
from vidtune.checkpoints.files.tensors import require_dtypes
from vidtune.checkpoints.publication import CONFIG_ERRORS
from vidtune.checkpoints.report import LoadReport
from vidtune.errors import UserError
from vidtune.models.config import VideoLMConfig
from vidtune.models.initial import NoValuesFilled, without_values
from vidtune.models.language_model.families import family_of
from vidtune.models.language_model.head import tied_names
from vidtune.models.video_lm import VideoLM

_FEW = 2**27
"""Numbers of weights that a config may ask for without any in the files: a connector, not a language model."""
_SAMPLE = 8192
"""Values of a weight that are looked at first; counting all takes seconds for large models."""
Dtypes = torch.dtype | Callable[[str], torch.dtype] | None
"""One dtype for all parameters, or a function from the name of a component to its dtype; None: that of the files."""


def model_from_state(
    config: VideoLMConfig,
    state: Mapping[str, Tensor],
    report: LoadReport,
    dtype: Dtypes = None,
    *,
    where: str | Path = "weights",
    dtype_of_config: bool = False,
) -> VideoLM:
    """Build a model with these tensors. Parameters that ``state`` lacks are initialised and reported as missing.

    Tied weights are filled from whichever of their names ``state`` holds.

    Args:
        where: path for error messages.
        dtype_of_config: take the dtype that the config names, and only without one that of the tensors.

    Raises:
        UserError: sizes in the config of which no model can be built, a tensor of another shape than the config asks
            for or that holds no floating-point numbers, the names of one weight hold different values, or float16 has
            zeros in the place of its values; names it.
    """
    try:
        with without_values():
            empty = VideoLM(config)
    except CONFIG_ERRORS as error:
        raise unreadable_config(where, error) from None
    state = under_every_name(state, tied_names(empty), where)
    wanted = empty.state_dict()
    _require_shapes(wanted, state, where)
    _require_held(wanted, state, where)
    require_dtypes(empty, state, where)
    common = "auto" if dtype_of_config else _common_dtype(empty, state, dtype)
    model: VideoLM
    with without_progress_bar(), without_load_report(), NoValuesFilled():  # it builds a model on the meta device
        model, info = VideoLM.from_pretrained(
            None, config=config, state_dict=state, dtype=common, output_loading_info=True
        )
    if callable(dtype):
        cast(model, state, dtype)
    for name, tensor in model.state_dict().items():
        if name in state:
            require_not_vanished(name, state[name], tensor, where)
    report.missing += sorted(info["missing_keys"])
    report.unexpected += sorted(info["unexpected_keys"])
    return model


def _require_shapes(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str | Path) -> None:
    """Raise UserError for a tensor of another shape than the config asks for."""
    for name, tensor in state.items():
        if name in wanted and wanted[name].shape != tensor.shape:
            held, asked = tuple(tensor.shape), tuple(wanted[name].shape)
            raise UserError(f"{where}: {name}: shape {held} in the file, {asked} by its config")


def _common_dtype(model: VideoLM, state: Mapping[str, Tensor], dtype: Dtypes) -> torch.dtype:
    """The dtype in which the whole model is built: the smallest that is wanted, or that of the files."""
    if callable(dtype):
        return min((dtype(component) for component in model.components()), key=lambda kind: kind.itemsize)
    # Connectors beside a language model in half precision may be stored in full.
    names = sorted(state, key=lambda name: not name.startswith("language_model."))
    stored = (state[name].dtype for name in names if state[name].is_floating_point())
    return dtype or next(stored, torch.float32)


def _require_held(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str | Path) -> None:
    """Raise UserError where a config asks for much more memory than the files that it stands beside have weights."""
    asked = sum(tensor.numel() for name, tensor in wanted.items() if name not in state)
    held = sum(tensor.numel() for name, tensor in wanted.items() if name in state)
    if asked > 2 * held + _FEW:
        raise UserError(
            f"{where}: the config asks for {asked:,} numbers that are not in the files, which hold {held:,} of them; "
            "take the config.json that belongs to these weights"
        )


def require_not_vanished(name: str, stored: Tensor, loaded: Tensor, where: str | Path) -> None:
    """Raise UserError where float16 turns more than 99 % of the values of a weight into zeros.

    Biases may become zeros: so small an addend is lost in float16 anyway.
    """
    if loaded.dtype != torch.float16 or stored.dtype == torch.float16 or name.endswith("bias") or loaded.is_meta:
        return
    some = loaded.flatten()[:: loaded.numel() // _SAMPLE | 1]
    if not loaded.numel() or 20 * int(some.count_nonzero()) > len(some):
        return
    left = int(loaded.count_nonzero())
    lost = int(stored.count_nonzero()) - left
    if lost > 99 * left:
        raise UserError(
            f"{where}: {name}: {lost} of {loaded.numel()} values are too small for float16 and become 0; load it with "
            "dtype bfloat16 or float32"
        )


def under_every_name(
    state: Mapping[str, Tensor], groups: Iterable[tuple[str, ...]], where: str | Path = "weights"
) -> dict[str, Tensor]:
    """Return the tensors with each tied weight under all of its names, whichever of them the file holds.

    Args:
        groups: names of each tied weight, see :func:`tied_names`.
        where: path for error messages.

    Raises:
        UserError: the names of one weight hold different values.
    """
    completed = dict(state)
    for names in groups:
        held = [name for name in names if name in completed]
        for name in held[1:]:
            one, other = completed[held[0]], completed[name]
            if one.shape != other.shape or not torch.equal(one, other):
                raise UserError(f"{where}: {held[0]} and {name} are one weight by the config but hold different values")
        if held:
            completed |= dict.fromkeys(names, completed[held[0]])
    return completed


def cast(model: VideoLM, state: Mapping[str, Tensor], dtype: torch.dtype | Callable[[str], torch.dtype]) -> VideoLM:
    """Give the parameters of every component its dtype, with the values that ``state`` has for them; buffers stay."""
    for component, part in model.components().items():
        wanted = dtype(component) if callable(dtype) else dtype
        for name, parameter in part.named_parameters():
            if parameter.dtype != wanted:
                parameter.data = state.get(f"{component}.{name}", parameter.data).to(wanted)
    return model


def holds(names: Iterable[str], component: str) -> bool:
    """Whether any of these names belongs to a component."""
    return any(name.startswith(component + ".") for name in names)


def drawn_weights(config: VideoLMConfig, names: Sequence[str]) -> dict[str, Tensor]:
    """Return random weights, in float32, for the components that have none among ``names``."""
    builders: dict[str, Callable[[], nn.Module]] = {
        **{f"towers.{name}": config.tower(name).build for name in config.towers if name not in config.absent_towers},
        **{f"connectors.{name}": config.connector(name).build for name in config.connectors},
        **{f"alignments.{name}": config.alignment(name).build for name in config.alignments},
        "language_model": lambda: family_of(config.text_config).build(config.text_config),
    }
    drawn: dict[str, Tensor] = {}
    for component, build in builders.items():
        if not holds(names, component):
            part = build()
            if component != "language_model":
                part.apply(_reset)
            drawn |= {f"{component}.{name}": tensor for name, tensor in part.state_dict().items()}
    return drawn


def _reset(module: nn.Module) -> None:
    """Start a module of a tower or connector as :class:`VideoLM` does."""
    reset = getattr(module, "reset_parameters", None)
    if reset is not None:
        reset()
