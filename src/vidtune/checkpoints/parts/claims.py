"""Which published format claims a checkpoint, by its config.json and the names and shapes of its tensors."""

import warnings
from pathlib import Path

from vidtune.checkpoints.publication import CheckpointFormat, JsonDict, Shapes
from vidtune.checkpoints.source import Source
from vidtune.errors import UserError, errors_of
from vidtune.registry import SYSTEMS


class AmbiguousCheckpointError(UserError):
    """A checkpoint that several systems claim."""


class UnknownCheckpointError(UserError):
    """A checkpoint that no system knows."""


def find_format(
    config: JsonDict, shapes: Shapes, where: Path, adapter: bool = False, system: str | None = None
) -> tuple[str, CheckpointFormat]:
    """Return the system name and the published format that match a config.json and the tensors beside it.

    Args:
        shapes: shapes of the tensors by name.
        where: path for error messages.
        adapter: whether a low-rank adapter lies beside them.
        system: look among its formats alone; None: among those of all systems.

    Raises:
        AmbiguousCheckpointError: several systems claim it; the message names them.
        UnknownCheckpointError: no system knows it.
    """
    claims = {}
    for name, known in [(system, SYSTEMS[system])] if system else SYSTEMS.usable():
        formats = (format for format in known.publication.formats if format.adapter == adapter)
        try:
            with errors_of(f"system {name}: matches of a format fails"):
                claim = next((format for format in formats if format.matches(config, shapes)), None)
        except UserError as broken:
            if system:
                raise
            warnings.warn(f"{broken}; it is left out", stacklevel=2)
            continue
        if claim is not None:
            claims[name] = claim
    if len(claims) > 1:  # one whose files say so comes before those that could be of any system
        claims = {name: claim for name, claim in claims.items() if claim.certain(config, shapes)} or claims
    if len(claims) > 1:
        named = " and ".join(f"{name} (format {format.name})" for name, format in claims.items())
        raise AmbiguousCheckpointError(f"{where}: claimed by the systems {named}; name one of them with --system NAME")
    for name, claim in claims.items():
        if not system and not claim.certain(config, shapes):
            raise AmbiguousCheckpointError(
                f"{where}: could be of system {name} (format {claim.name}), but nothing in it says so; if it is, say "
                f"--system {name}"
            )
        return name, claim
    what = f"of system {system}" if system else "of a known system"
    raise UnknownCheckpointError(f"{where}: not a checkpoint {what} (model_type {config.get('model_type')!r})")


def connector_format(part: Source) -> CheckpointFormat:
    """Return the published format of a file that is named for one connector: the one that claims it, or the only one.

    Raises:
        UserError: it is none of the formats of its system.
    """
    known = SYSTEMS[str(part.system)].publication.formats
    partial = [format for format in known if format.holds_connectors_alone]
    with errors_of(f"system {part.system}: matches of a format fails"):
        found = [format for format in partial if format.matches(part.config, part.shapes)]
    if not found and len(partial) != 1:
        names = ", ".join(format.name for format in partial) or "it has none"
        raise UserError(f"{part.path}: no file of connectors of system {part.system} (formats: {names})")
    return (found or partial)[0]


def connector_files() -> tuple[str, ...]:
    """Names that files of connectors have in the published formats."""
    formats = [format for _, system in SYSTEMS.usable() for format in system.publication.formats]
    return tuple(dict.fromkeys(format.file_name for format in formats if format.holds_connectors_alone))
