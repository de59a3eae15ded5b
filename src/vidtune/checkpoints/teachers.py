"""Teachers of a recipe: their towers and weights, the frames that they see, and the heads that their students need."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from vidtune.checkpoints.files.tensors import require_dtypes
from vidtune.checkpoints.publication import TowerFile
from vidtune.checkpoints.recognise import TEACHER, recognise
from vidtune.checkpoints.report import LoadReport, rename
from vidtune.checkpoints.source import Source
from vidtune.errors import UserError
from vidtune.media.preprocessing.resize_keeping_aspect import AnyPixelImagePreprocessing, AnyPixelVideoPreprocessing
from vidtune.models.config import VideoLMConfig
from vidtune.models.distillation import Teacher, every_fourth_layer
from vidtune.models.towers.base import tower_config
from vidtune.models.towers.clip import ClipTowerConfig
from vidtune.recipe.types import Distillation, Recipe
from vidtune.registry import SYSTEMS
from vidtune.spelling import suggestion

if TYPE_CHECKING:
    from vidtune.media.preprocessing.kinds import Preprocessing


def teacher_config(recipe: Recipe, stream: str) -> ClipTowerConfig:
    """Return the sizes of a stream's teacher; no weights are read.

    Raises:
        UserError: they cannot be found or contradict each other.
    """
    spec = recipe.distillation[stream].teacher
    try:
        sizes = spec if isinstance(spec, dict) else _tower_sizes(_teacher_source(recipe, stream, spec), stream)
        if sizes.get("type", "clip") != "clip":
            raise ValueError(f"a tower of type {sizes['type']!r} cannot teach, one of type 'clip' can")
        return cast(
            ClipTowerConfig, tower_config({"type": "clip", "hidden_act": "gelu", **sizes, "keep_class_token": False})
        )
    except (ValueError, KeyError) as error:
        raise UserError(f"distillation.{stream}.teacher: {error}") from None


def _teacher_source(recipe: Recipe, stream: str, place: str) -> Source:
    return recognise(place, system=recipe.system, component=TEACHER + stream)


def _tower_sizes(source: Source, stream: str) -> dict[str, Any]:
    """Sizes of a teacher: a tower alone, or the stream's tower in a whole model of ours."""
    if source.kind == "tower":
        assert source.files is not None
        return _published_teacher(str(source.system), stream).read_sizes(source.files.require_config(), {})
    if stream not in source.config["streams"]:
        raise ValueError(f"the model in {source.path} has no stream {stream!r}")
    sizes: dict[str, Any] = source.config["towers"][source.config["streams"][stream]["tower"]]
    return sizes


def _published_teacher(system: str, stream: str) -> TowerFile:
    """How the teacher of a stream is published: by itself, or as the tower of that name."""
    publication = SYSTEMS[system].publication
    return publication.teachers.get(stream) or publication.tower(stream)


def _tower_state(source: Source, stream: str, report: LoadReport) -> dict[str, Tensor]:
    """Weights of a teacher under our names; the other weights of a whole model of ours are not read."""
    if source.kind == "tower":
        return rename(source.weights, _published_teacher(str(source.system), stream).keys, report)
    prefix = f"towers.{source.config['streams'][stream]['tower']}."
    weights = source.weights
    return {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}


def alignment_sizes(recipe: Recipe, config: VideoLMConfig) -> dict[str, dict[str, Any]]:
    """Return the sizes of the alignment head of every stream for which the recipe has a teacher.

    Raises:
        UserError: no such stream, or its tower does not tell where its tokens stand.
    """
    sizes = {}
    for stream, distillation in recipe.distillation.items():
        if stream not in config.streams:
            raise UserError(f"distillation.{stream}: no such stream; {suggestion(stream, list(config.streams))}")
        tower = config.tower(config.streams[stream]["tower"])
        shape = tower.input_shape()
        if not hasattr(tower, "token_grids") or config.num_tokens(stream, shape) != tower.num_tokens(shape):
            raise UserError(f"distillation.{stream}: its tower and connector do not tell where its tokens stand")
        sizes[stream] = {
            "input_size": config.text_config.hidden_size,
            "output_size": teacher_config(recipe, stream).hidden_size,
            "layers": list(_layers(stream, distillation, config.text_config.num_hidden_layers)),
        }
    return sizes


def _layers(stream: str, distillation: Distillation, num_layers: int) -> tuple[int, ...]:
    layers = distillation.layers or every_fourth_layer(num_layers)
    if len(layers) < 2 or not all(0 <= layer <= num_layers for layer in layers):
        raise UserError(f"distillation.{stream}.layers: give at least two of 0 to {num_layers}, not {list(layers)}")
    return layers


def build_teacher(recipe: Recipe, stream: str, config: VideoLMConfig) -> Teacher:
    """Return the frozen teacher of a stream with its weights. One given by sizes is drawn from the recipe's seed.

    Args:
        config: config of the student.

    Raises:
        UserError: weights that cannot be found or do not fit.
    """
    spec, sizes = recipe.distillation[stream].teacher, teacher_config(recipe, stream)
    tower: Any = config.tower(config.streams[stream]["tower"])
    side = tower.token_grids(tower.input_shape())[0].side
    shape = SYSTEMS[recipe.system].architecture.preprocessing(config)[stream].output_shape()
    _check_sight(stream, sizes, shape[1] if len(shape) == 4 else 1, side)
    torch.manual_seed(recipe.seed)
    teacher = Teacher(sizes, cell=sizes.image_size // side, color=getattr(tower, "padding_color", (0.0, 0.0, 0.0)))
    if isinstance(spec, str):
        report = LoadReport(f"teacher of {stream}")
        source = _teacher_source(recipe, stream, spec)
        state = _tower_state(source, stream, report)
        require_dtypes(teacher.tower, state, spec)
        found = teacher.tower.load_state_dict(state, strict=False)
        report.missing, report.unexpected = found.missing_keys, report.unexpected + found.unexpected_keys
        report.refuse_gaps(Path(spec))
        source.close()
    return teacher


def _check_sight(stream: str, teacher: ClipTowerConfig, frames: int, side: int) -> None:
    """Raise UserError unless a teacher can look at so many frames of a square of ``side`` x ``side`` cells."""
    where = f"distillation.{stream}.teacher"
    if (teacher.num_frames or 1) < frames:
        raise UserError(f"{where}: it sees {teacher.num_frames or 1} frames where its student sees {frames}")
    patches = teacher.image_size // teacher.patch_size
    if teacher.image_size % side or patches % side:
        raise UserError(
            f"{where}: its {patches} x {patches} patches do not divide into the student's {side} x {side} cells; "
            "give it another image_size or patch_size"
        )


def teacher_preprocessing(preprocessing: "Preprocessing", teacher: ClipTowerConfig) -> "Preprocessing":
    """Return the preprocessing of a teacher: the frames of the student, resized to the teacher's image size."""
    changes: dict[str, Any] = {"size": teacher.image_size}
    if isinstance(preprocessing, AnyPixelImagePreprocessing | AnyPixelVideoPreprocessing):
        changes["cell"] = preprocessing.cell * teacher.image_size // preprocessing.size
    return preprocessing.model_copy(update=changes)
