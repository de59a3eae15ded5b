"""What a contrastive stage compares, as files: text towers as they are published, and the folder beside a result.

A CLIP model, and a tower that was aligned with CLIP's texts, is published with its text tower, its projections and its
temperature under the same names. The result of a contrastive stage holds them in the folder ``contrast``, under these
names too, and one projection for each stream.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import CLIPTextConfig, PreTrainedTokenizerBase

from vidtune.checkpoints.files.fingerprint import CONTRAST
from vidtune.checkpoints.files.folder import CONFIG, CheckpointFiles
from vidtune.checkpoints.files.tensors import require_dtypes, write_state
from vidtune.checkpoints.parts.model_settings import names_of
from vidtune.checkpoints.publication import CONFIG_ERRORS
from vidtune.errors import UserError
from vidtune.models.config import VideoLMConfig
from vidtune.models.text_alignment.contrast import FIRST_TEMPERATURE, Contrast, ContrastConfig, Loss, pooled_sizes
from vidtune.processing.captions import CaptionTokenizer
from vidtune.processing.tokenizer import load_tokenizer
from vidtune.recipe import types
from vidtune.recipe.types import Recipe
from vidtune.spelling import suggestion

MODEL_TYPE = "vidtune_contrast"
_TEXT, _PROJECTION, _SCALE, _BIAS = (
    ("text_model.", "text_projection."),
    "visual_projection",
    "logit_scale",
    "logit_bias",
)
_OURS = "projections."


@dataclass(frozen=True)
class ContrastParts:
    """What a stage compares, and where its weights are; no weight is read.

    Args:
        config: sizes.
        tokenizer: tokenizer of the text tower.
        text: files of the text tower; None: it gets random weights.
        projections: stream -> files of its projection, where they are not those of the text tower.
        keep_scale: whether temperature and bias are those in the files of the text tower.
    """

    config: ContrastConfig
    tokenizer: PreTrainedTokenizerBase
    text: CheckpointFiles | None
    projections: Mapping[str, CheckpointFiles]
    keep_scale: bool

    @property
    def captions(self) -> CaptionTokenizer:
        """Function that makes the tokens of a caption."""
        return CaptionTokenizer(self.tokenizer, self.config.text.max_position_embeddings)

    def build(self, seed: int) -> Contrast:
        """Return text tower, projections and temperature with their weights; what no file holds is drawn from ``seed``.

        Raises:
            UserError: weights that are missing or do not fit.
        """
        torch.manual_seed(seed)
        contrast = self.config.build()
        state = {} if self.text is None else _text_state(self.text, self.keep_scale)
        if self.text is not None and _is_ours(self.text):
            state |= _own_projections(self.text, list(contrast.projections))
        for stream, files in self.projections.items():
            state[f"{_OURS}{stream}.weight"] = _projection(files, stream)
        for name, wanted in contrast.state_dict().items():
            is_needed = name.startswith("text_tower.") and not name.endswith("position_ids")
            if self.text is not None and is_needed and name not in state:
                raise UserError(f"{self.text.path}: holds no {name.removeprefix('text_tower.')} of a text tower")
            if name in state and state[name].shape != wanted.shape:
                shapes = f"{tuple(state[name].shape)} in the file, {tuple(wanted.shape)} by its config"
                raise UserError(f"contrast: {name}: shape {shapes}")
        require_dtypes(contrast, state, "contrast")
        unknown = contrast.load_state_dict(state, strict=False).unexpected_keys
        if unknown:
            raise UserError(f"contrast: {len(unknown)} keys that a text tower does not have, first {unknown[0]!r}")
        return contrast


def contrast_parts(
    recipe: Recipe,
    number: int,
    config: VideoLMConfig,
    own_tokenizer: Callable[[], PreTrainedTokenizerBase],
    out: Path | None = None,
) -> ContrastParts:
    """Return what stage ``number`` compares.

    Args:
        config: of the model of the stage.
        own_tokenizer: returns the tokenizer of the language model.
        out: folder of the run, where the results of earlier stages are; None: there are none yet.

    Raises:
        UserError: a text tower that cannot be found or read, a stream that is not there, widths that do not fit.
    """
    stage = recipe.stages[number]
    settings, where = stage.contrast or types.Contrast(), f"stage {stage.name!r}: contrast"
    named = (("pool", settings.pool), ("projections", settings.projections))
    for key, stream in ((key, stream) for key, given in named for stream in given):
        if stream not in config.streams:
            raise UserError(f"{where}.{key}: no stream {stream!r}; {suggestion(stream, list(config.streams))}")
    mean = settings.mean_streams
    sizes = pooled_sizes(config, mean)
    place = settings.text_tower or _start(recipe, number, out, where)
    if isinstance(place, int):
        before = contrast_parts(recipe, place, config, own_tokenizer)
        loss = settings.loss or before.config.loss
        return replace(before, config=_config(settings, before.config.text, sizes, mean, loss, where))
    trained_with: Loss = "softmax"
    if isinstance(place, dict):
        files = None
        tokenizer = load_tokenizer(settings.tokenizer) if settings.tokenizer else own_tokenizer()
        text = _drawn_text(place, tokenizer, where)
    else:
        files = contrast_files(place)
        if settings.tokenizer is None and not files.has_tokenizer:
            raise UserError(f"{files.path}: holds no tokenizer of the text tower; give contrast.tokenizer")
        text = text_config(files)
        tokenizer = load_tokenizer(settings.tokenizer or files.path, config=None if settings.tokenizer else text)
        if _is_ours(files) and files.config.get("loss") == "sigmoid":
            trained_with = "sigmoid"
    if tokenizer.eos_token_id is None:
        raise UserError(f"{where}: the tokenizer of the text tower has no token for the end of a text; give another")
    _require_widths(config, sizes, text, where)
    projections = {stream: contrast_files(path) for stream, path in settings.projections.items()}
    chosen = settings.loss or trained_with
    keeps = settings.temperature is None and settings.bias is None and chosen == trained_with
    found = _config(settings, text, sizes, mean, chosen, where)
    return ContrastParts(found, tokenizer, files, projections, keep_scale=keeps)


def _require_widths(config: VideoLMConfig, sizes: Mapping[str, int | None], text: CLIPTextConfig, where: str) -> None:
    """Raise UserError for a tower whose own projection has another width than that of the text tower."""
    for stream in (stream for stream, size in sizes.items() if size is None):
        width = cast(Any, config.tower(config.streams[stream]["tower"])).pooled_size
        if width != text.projection_dim:
            raise UserError(
                f"{where}: the tower of stream {stream!r} gives vectors of {width} numbers, the text tower of "
                f"{text.projection_dim}; take another text tower, or set pool.{stream}: mean, which is projected"
            )


def contrast_files(place: str | Path) -> CheckpointFiles:
    """Return the files of a text tower: of the folder ``contrast`` of a result, or those of the place itself."""
    inner = Path(place) / CONTRAST
    return CheckpointFiles(inner if inner.is_dir() else place)


def load_contrast(place: str | Path) -> tuple[Contrast, CaptionTokenizer]:
    """Return what the result of a contrastive stage was compared with, and the tokenizer of its text tower.

    Raises:
        UserError: the place holds no such result, or weights that do not fit.
    """
    files = contrast_files(place)
    if not _is_ours(files):
        raise UserError(f"{place}: holds no folder {CONTRAST}; give the result of a stage with objective: contrastive")
    try:
        sizes = {name: files.config[name] for name in ("projections", "mean", "loss")}
        found = ContrastConfig(text=text_config(files), **{**sizes, "mean": tuple(sizes["mean"])})
    except CONFIG_ERRORS as error:
        raise UserError(f"{files.path}: {CONFIG}: {' '.join(str(error).split())}") from None
    parts = ContrastParts(found, load_tokenizer(files.path, config=found.text), files, {}, keep_scale=True)
    return parts.build(0).eval(), parts.captions


def write_contrast(folder: Path, config: ContrastConfig, state: Mapping[str, Tensor], tokenizer: Any) -> None:
    """Write the folder ``contrast`` into the folder of a result.

    Args:
        state: weights by the names of :class:`Contrast`.
    """
    inner = folder / CONTRAST
    inner.mkdir()
    renamed = {name.removeprefix("text_tower.").removeprefix("temperature."): value for name, value in state.items()}
    write_state(renamed, inner)
    text = config.text.to_dict()
    sizes = {"projections": dict(config.projections), "mean": list(config.mean), "loss": config.loss}
    settings = {"model_type": MODEL_TYPE, "projection_dim": config.text.projection_dim, "text_config": text, **sizes}
    (inner / CONFIG).write_text(json.dumps(settings, indent=1), encoding="utf-8")
    tokenizer.save_pretrained(inner)


def text_config(files: CheckpointFiles) -> CLIPTextConfig:
    """Return the sizes of the text transformer in a folder.

    Raises:
        UserError: its config.json tells of none, or tells sizes that contradict each other.
    """
    whole = files.require_config()
    text = whole if whole.get("model_type") == CLIPTextConfig.model_type else whole.get("text_config")
    if not isinstance(text, dict):
        raise UserError(f"{files.path}: {CONFIG} tells of no text tower (text_config)")
    known = {key: value for key, value in text.items() if key in names_of(CLIPTextConfig)}
    known |= {"projection_dim": whole["projection_dim"]} if "projection_dim" in whole else {}
    try:
        return _with_attention(CLIPTextConfig(**known))
    except CONFIG_ERRORS as error:
        raise UserError(f"{files.path}: {CONFIG}: text_config: {' '.join(str(error).split())}") from None


def _drawn_text(sizes: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, where: str) -> CLIPTextConfig:
    unknown = next((key for key in sizes if key not in names_of(CLIPTextConfig)), None)
    if unknown is not None:
        known = names_of(CLIPTextConfig)
        raise UserError(f"{where}.text_tower: a text tower has no {unknown!r}; {suggestion(unknown, known)}")
    rows = len(tokenizer)
    if sizes.get("vocab_size", rows) < rows:
        raise UserError(f"{where}.text_tower: vocab_size {sizes['vocab_size']} is less than the tokenizer's {rows}")
    try:
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        return _with_attention(CLIPTextConfig(**{"vocab_size": rows, **ids, **sizes}))
    except CONFIG_ERRORS as error:
        raise UserError(f"{where}.text_tower: {' '.join(str(error).split())}") from None


def _with_attention(config: CLIPTextConfig) -> CLIPTextConfig:
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(f"hidden_size {config.hidden_size} does not divide into {config.num_attention_heads} heads")
    config._attn_implementation = "sdpa"
    return config


def _config(
    settings: types.Contrast,
    text: CLIPTextConfig,
    sizes: Mapping[str, int | None],
    mean: tuple[str, ...],
    loss: Loss,
    where: str,
) -> ContrastConfig:
    kept = {"temperature": settings.temperature or FIRST_TEMPERATURE[loss]}
    kept |= {} if settings.bias is None else {"bias": settings.bias}
    if settings.bias is not None and loss != "sigmoid":
        raise UserError(f"{where}.bias: loss {loss!r} has none; remove it, or set loss: sigmoid")
    return ContrastConfig(text=text, projections=dict(sizes), mean=mean, loss=loss, **kept)


def _start(recipe: Recipe, number: int, out: Path | None, where: str) -> str | int:
    """Where the text tower of a stage is that names none: the number of an earlier stage, or a folder."""
    stage = recipe.stages[number]
    earlier = [one.name for one in recipe.stages[:number]]
    source = stage.from_ or (earlier[-1] if earlier else None)
    if source in earlier and recipe.stages[earlier.index(source)].objective == "contrastive":
        final = None if out is None else out / source / "final"
        return str(final) if final is not None and final.is_dir() else earlier.index(source)
    if source is not None and source not in earlier and (Path(source) / CONTRAST).is_dir():
        return source
    raise UserError(
        f"{where}: no text_tower, and what the stage starts from holds none; give the folder or hub id of one, or sizes"
    )


def _is_ours(files: CheckpointFiles) -> bool:
    return files.config.get("model_type") == MODEL_TYPE


def _text_state(files: CheckpointFiles, keep_scale: bool) -> dict[str, Tensor]:
    """Weights of the text tower, and temperature and bias, by the names of :class:`Contrast`."""
    tensors = files.tensors()
    names = [name for name in tensors if name.startswith(_TEXT) and not name.endswith("position_ids")]
    state = {f"text_tower.{name}": tensors[name] for name in names}
    for name in (_SCALE, _BIAS):
        if keep_scale and name in tensors:
            state[f"temperature.{name}"] = tensors[name].reshape(1)
    return state


def _own_projections(files: CheckpointFiles, streams: list[str]) -> dict[str, Tensor]:
    tensors = files.tensors()
    return {name: tensors[name] for stream in streams if (name := f"{_OURS}{stream}.weight") in tensors}


def _projection(files: CheckpointFiles, stream: str) -> Tensor:
    tensors = files.tensors()
    name = f"{_OURS}{stream}.weight" if _is_ours(files) else f"{_PROJECTION}.weight"
    if name not in tensors:
        raise UserError(f"{files.path}: holds no {name}, the projection of stream {stream!r}")
    return tensors[name]
