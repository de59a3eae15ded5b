"""What stands on a model: LoRA runs, bundles, connectors, and differences to a language model."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vidtune.checkpoints.assembly.composition import rows_of_delta, tokens_with_rows
from vidtune.checkpoints.assembly.fill import (
    require_not_vanished,
    under_every_name,
)
from vidtune.checkpoints.files.tensors import require_floating
from vidtune.checkpoints.lora.adapter_files import Adapter, official_name, read_adapter
from vidtune.checkpoints.lora.added_rows import put_rows, weights_with_rows, with_new_rows
from vidtune.checkpoints.lora.bundle import OTHERS, SAMPLE, bundle_adapters, first_difference
from vidtune.checkpoints.lora.merging import Put, merge
from vidtune.checkpoints.parts.difference import add_difference
from vidtune.checkpoints.parts.language_model import read_text_config
from vidtune.checkpoints.publication import KeyMap
from vidtune.checkpoints.report import OURS, LoadReport, rename
from vidtune.checkpoints.source import Source
from vidtune.errors import UserError
from vidtune.models.config import ADDED_TOKENS, VideoLMConfig
from vidtune.models.initial import without_values
from vidtune.models.language_model.head import tied_names
from vidtune.models.video_lm import VideoLM


@dataclass
class Layer:
    """What stands on a model, read and ready to be put on it.

    Args:
        connectors: weights that replace those of the model, under our names: connectors of a published layer, or what a
            bundle holds of parts that were trained fully.
        report: report of reading it.
        adapters: pairs of an adapter and the key map from its names to ours.
        difference: differences to the weights of the language model, under our names.
        rows: rows of added tokens, by the names of their component.
    """

    source: Source
    connectors: dict[str, Tensor]
    report: LoadReport
    adapters: list[tuple[Adapter, KeyMap]]
    difference: dict[str, Tensor]
    rows: dict[str, Tensor]

    @torch.no_grad()
    def put_on(self, model: VideoLM, put: Put = merge) -> LoadReport:
        """Change a model in place; returns the report.

        Args:
            put: how adapters are put on it.
        """
        parameters = dict(model.named_parameters(remove_duplicate=False))
        if self.source.kind == "bundle":
            _require_its_base(self.source, parameters)
            what = f"{self.source.path / OTHERS}: the base"
        else:
            what = f"{self.source.path}: the model"
        for name, tensor in self.connectors.items():
            require_floating(name, tensor, self.source.path)
            if name not in parameters or parameters[name].shape != tensor.shape:
                raise UserError(f"{what} has no weight {name!r} of shape {tuple(tensor.shape)}")
            parameters[name].copy_(tensor)
            require_not_vanished(name, tensor, parameters[name], self.source.path)
        put_rows(model, self.rows, self.source.path)
        for adapter, keys in self.adapters:
            put(model, adapter, keys, self.source.path)
        if self.source.format is not None:
            self.report.warnings = list(self.source.format.warnings(model.config))
        return self.report


def read_layer(source: Source) -> Layer:
    files, format = source.files, source.format
    assert files is not None
    if source.manifest is not None:
        found = bundle_adapters(files, source.manifest)
        state = dict(files.tensors((OTHERS,)))
        adapters = [(adapter, KeyMap((("", component + "."),))) for component, adapter in found.items()]
        report = LoadReport(OURS, len(state))
    else:
        assert format is not None
        weights = source.weights
        report = LoadReport(format.name)
        state = rename({official_name(name): weights[name] for name in weights}, format.keys, report)
        report.refuse_gaps(source.path)
        adapters = [(read_adapter(files), format.keys)] if source.kind == "run" else []
    report.loaded += sum(2 * len(adapter.factors) for adapter, _ in adapters)
    rows = {name: state.pop(name) for name in list(state) if name.startswith(ADDED_TOKENS + ".")}
    names = [name for name in state if source.kind == "delta" and name.startswith("language_model.")]
    return Layer(source, state, report, adapters, {name: state.pop(name) for name in names}, rows)


def _require_its_base(bundle: Source, parameters: Mapping[str, Tensor]) -> None:
    """Raise UserError unless a model is the one on which the adapters of a bundle were trained."""
    assert bundle.files is not None and bundle.manifest is not None
    different = first_difference(bundle.files.tensors((SAMPLE,)), parameters)
    if different is not None:
        below = bundle.children[0]
        place = "its parts make now" if below.seed is not None else below.place
        raise UserError(
            f"{bundle.path}: its adapters were trained on another model than {place}: {different} differs; give the "
            "right one with --model-base"
        )


def require_different(layers: Sequence[Layer]) -> None:
    """Raise UserError where two runs hold one adapter, which would be merged twice; a bundle knows its own base."""
    seen: list[Layer] = []
    for layer in (one for one in layers if one.adapters and one.source.kind != "bundle"):
        for other in seen:
            pairs = zip(layer.adapters, other.adapters, strict=False)
            if len(layer.adapters) == len(other.adapters) and all(one.same_as(two) for (one, _), (two, _) in pairs):
                raise UserError(f"{layer.source.path}: its adapter is that of {other.source.path}; name one of them")
        seen.append(layer)


def require_whole_parts(source: Source, names: Collection[str], model: VideoLM) -> None:
    """Raise UserError where a run on a whole model does not hold all weights of the parts that were trained with it."""
    if source.format is None or not source.format.on_whole_models:
        return
    parts = tuple(part + "." for part in source.format.partial)
    wanted = (name for name, _ in model.named_parameters(remove_duplicate=False) if name.startswith(parts))
    missing = [name for name in wanted if name not in names]
    LoadReport(source.format.name, missing=missing).refuse_gaps(source.path)


def keep_drawn(below: LoadReport, report: LoadReport, layers: Sequence[Layer], filled: Collection[str]) -> None:
    """Report the drawn weights of a base that nothing above fills. Raises UserError where a LoRA run stands on them."""
    left = [name for name in below.drawn if name not in filled]
    if below is report or not left:
        return
    run = next((layer.source for layer in layers if layer.source.kind == "run"), None)
    if run is not None:
        raise UserError(f"{run.path}: {len(left)} keys are in none of what was named, first {left[0]!r}")
    report.drawn = left
    report.warnings = [*below.warnings, *report.warnings]


def whole_language_model(
    part: Source, found: dict[str, Tensor], config: VideoLMConfig, delta: Layer | None = None
) -> dict[str, Tensor]:
    """Return the weights of a language model with the differences to it, and with rows for added tokens."""
    trained = tokens_with_rows(part, config.added_tokens) if config.added_tokens else set()
    if delta is not None:
        with without_values():
            tied = tied_names(VideoLM(config))
        _require_rows(delta, config)
        for name, tensor in found.items():
            require_floating(name, tensor, part.path)
        found = add_difference(under_every_name(found, tied, part.path), delta.difference, delta.source.path)
        rows = read_text_config(part).vocab_size  # what is longer in the differences was trained with them
        trained |= {text for text, id in config.added_tokens.items() if id >= rows}
        trained |= tokens_with_rows(delta.source, config.added_tokens) if delta.source.has_tokenizer else set()
    return with_new_rows(found, config, trained) if config.added_tokens else found


def _require_rows(delta: Layer, config: VideoLMConfig) -> None:
    """Raise UserError where the matrices of a delta have fewer rows than its own vocabulary."""
    rows = rows_of_delta(delta.source) or 0
    for name in weights_with_rows(config):
        held = delta.difference.get(name)
        if held is not None and len(held) < rows:
            raise UserError(f"{delta.source.path}: {name}: {len(held)} rows, but vocab_size in its config is {rows}")
