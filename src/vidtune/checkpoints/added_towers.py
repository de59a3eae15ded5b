"""Towers put into a loaded model: of one that comes without them, or in place of those it has."""

from collections.abc import Mapping
from pathlib import Path

from vidtune.checkpoints.build import build_processor, tower_sizes
from vidtune.checkpoints.checkpoints import Checkpoint, Dtypes, LoadReport, rename
from vidtune.checkpoints.files.hub import locate
from vidtune.checkpoints.files.tensors import read_state
from vidtune.errors import UserError
from vidtune.registry import SYSTEMS
from vidtune.spelling import suggestion


def add_towers(checkpoint: Checkpoint, towers: Mapping[str, str], dtype: Dtypes = None) -> None:
    """Put towers into a loaded model; its processor is fitted to them.

    Args:
        towers: tower -> file, folder or hub id of its weights.
        dtype: of their parameters; None: that of the model.

    Raises:
        UserError: no such tower, weights that do not fit, or features of another width than the connector takes.
    """
    model, config = checkpoint.model, checkpoint.model.config
    files = SYSTEMS[config.system].publication
    for name, place in towers.items():
        if name not in config.towers:
            raise UserError(f"--tower {name}: no such tower; {suggestion(name, list(config.towers))}")
        report = LoadReport(f"tower {name}")
        found = tower_sizes(config.system, name, place)
        state = rename(read_state(locate(place)), files.tower(name).keys, report)
        width = config.tower(name).hidden_size
        # What the file does not tell, as the number of frames, stays as it was.
        config.towers[name] = {key: value for key, value in config.towers[name].items() if key != "absent"} | found
        try:
            tower = config.build_tower(name)
        except (ValueError, TypeError) as error:
            raise UserError(f"{place}: {error}") from None
        if config.tower(name).hidden_size != width:
            given = config.tower(name).hidden_size
            raise UserError(f"{place}: gives features of width {given} where the model takes {width}")
        try:
            keys = tower.load_state_dict(state, strict=False)
        except RuntimeError as error:
            raise UserError(f"{place}: {str(error).splitlines()[-1].strip()}") from None
        report.missing, report.unexpected = keys.missing_keys, report.unexpected + keys.unexpected_keys
        report.refuse_gaps(Path(place))
        wanted = dtype(f"towers.{name}") if callable(dtype) else dtype or model.dtype
        model.towers[name] = tower.to(device=model.device, dtype=wanted).eval()
    _refit_processor(checkpoint, set(towers))


def _refit_processor(checkpoint: Checkpoint, towers: set[str]) -> None:
    """Settings of the streams of changed towers; preprocessing that still fits stays as it is."""
    processor, config = checkpoint.processor, checkpoint.model.config
    fresh = build_processor(config, processor.tokenizer)
    for stream, parts in config.streams.items():
        if parts["tower"] in towers:
            old, new = processor.streams[stream].preprocessing, fresh.streams[stream].preprocessing
            fits = type(old) is type(new) and old.output_shapes() == new.output_shapes()
            kept = {"preprocessing": old} if fits else {}
            processor.streams[stream] = fresh.streams[stream].model_copy(update=kept)
