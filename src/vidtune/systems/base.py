"""Record of a published system: what it is called, how it speaks, what it is made of, how its weights are published."""

from dataclasses import dataclass

from vidtune.checkpoints.publication import Publication
from vidtune.models.architecture import Architecture
from vidtune.processing.dialect import Dialect


@dataclass(frozen=True)
class System:
    """A published video language model as a composition of parts.

    Args:
        name: name in recipes, configs and commands.
        title: name in print.
        paper: identifier of the paper, such as ``"arXiv:2311.10122"``.
        repository: address of the official code.
        dialect: prompt formats and what belongs to them; used by processing.
        architecture: config and preprocessing; used by models.
        publication: checkpoint formats and key names; used by checkpoints.
    """

    name: str
    title: str
    paper: str
    repository: str
    dialect: Dialect
    architecture: Architecture
    publication: Publication
