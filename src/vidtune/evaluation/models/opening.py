"""What a user names as a model, ready to answer: a checkpoint of ours, or one of any model of transformers."""

from pathlib import Path
from typing import TYPE_CHECKING

from vidtune.checkpoints.files.hub import locate
from vidtune.errors import UserError
from vidtune.evaluation.checkpoint import LoadedCheckpoint, opened
from vidtune.evaluation.models.base import EvaluatedModel
from vidtune.evaluation.models.pretrained import PretrainedModel, known_models, unknown_model
from vidtune.foreign.documents import read_object

if TYPE_CHECKING:
    from vidtune.checkpoints.load import Checkpoint


def answering_model(
    model: "EvaluatedModel | LoadedCheckpoint | Checkpoint | Path | str",
    device: str = "cpu",
    dtype: str | None = None,
) -> EvaluatedModel:
    """Returns a model that is ready to answer.

    Args:
        model: a model that is; or what `evaluation.checkpoint.opened` takes; or folder or hub id of a model of
            transformers.
        device, dtype: see `evaluation.checkpoint.open_checkpoint`; unused where the model is in memory already.

    Raises:
        UserError: no checkpoint there, or not one that can be loaded.
    """
    if isinstance(model, EvaluatedModel):
        return model
    if isinstance(model, Path | str):
        path = locate(str(model))
        if is_of_transformers(path):
            return PretrainedModel(path, device, dtype)
    from vidtune.evaluation.models.own import OwnModel  # weight: torch

    return OwnModel(opened(model, device, dtype))


def is_of_transformers(path: Path) -> bool:
    """Whether a folder holds a model of transformers that is of no system of ours.

    Raises:
        UserError: a model that neither knows.
    """
    from vidtune.checkpoints.files.folder import CONFIG  # weight: torch
    from vidtune.checkpoints.parts.claims import UnknownCheckpointError
    from vidtune.checkpoints.recognise import recognise
    from vidtune.checkpoints.report import OURS

    if not (path / CONFIG).is_file():
        return False
    model_type = read_object(path / CONFIG).get("model_type")
    if model_type == OURS or model_type is None:
        return False
    try:
        recognise(path)
    except UnknownCheckpointError:
        if model_type in known_models():
            return True
        raise UserError(unknown_model(path, str(model_type))) from None
    except UserError:  # a checkpoint of ours that is not whole, or broken: loading it says how
        return False
    return False
