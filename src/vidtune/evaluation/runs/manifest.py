"""The manifest of a run, ``run.json``, as rows of names and values: what two runs differ in, whether a run is whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.ledger import Asking
from vidtune.evaluation.protocol import differences
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.run_info import RunInfo
from vidtune.evaluation.runs.run_ledger import ledger_of
from vidtune.foreign.yaml_document import parse_yaml


@dataclass(frozen=True)
class FieldDifference:
    """A field in which two manifests differ, such as ``protocol.preprocessing.num_frames``; None: it is not there."""

    name: str
    first: Any
    second: Any


def manifest_differences(one: RunInfo, two: RunInfo) -> tuple[FieldDifference, ...]:
    """Every field in which two runs differ; those that change answers most directly come first.

    The order: what was asked, by which rules, whose answers, how they were computed, the recipe of the weights, and how
    many questions were asked, of which only the common ones are compared. Where files lay, and what follows from other
    fields, is left out.
    """
    first, second = _fields(one), _fields(two)
    order = list(first)
    found = [FieldDifference(name, *values) for name, values in differences(first, second).items()]
    return tuple(sorted(found, key=lambda field: order.index(field.name.partition(".")[0])))


def _fields(info: RunInfo) -> dict[str, Any]:
    recipe = _parsed(info.recipe)
    return {
        "data": {"fingerprint": info.data.fingerprint, "features": sorted(info.data.features)},
        "protocol": info.protocol.model_dump(mode="json"),
        "checkpoint": info.checkpoint.fingerprint,
        "system": info.system,
        "arithmetic": None if info.arithmetic is None else info.arithmetic.model_dump(mode="json"),
        "versions": info.versions,
        "recipe": recipe if isinstance(recipe, Mapping) else info.recipe,
        "limit": info.limit,
    }


def _parsed(recipe: str | None) -> Any:
    try:
        return None if recipe is None else parse_yaml(recipe, "recipe", {}).value
    except UserError:
        return None


def missing_parts(run: RunFolder) -> list[str]:
    """What a run lacks to be whole, one line each; none where it has everything.

    A whole run has a manifest whose hash is that of its rules, an answer to every question that can be asked, and a
    score. A score that is older than the answers is refused where it is read (`score_file.read_current_score`).
    """
    info, ledger = run.info, ledger_of(run)
    lines = []
    if info.protocol_hash != info.protocol.hash:
        lines.append(f"run.json says protocol {info.protocol_hash}, its rules are {info.protocol.hash}: it was changed")
    for state in (Asking.NOT_ASKED, Asking.FAILED):
        if count := ledger.count(state):
            lines.append(f"{count} of {ledger.planned} questions {state}")
    strangers = [one.index for one in run.predictions() if one.index >= ledger.planned]
    if strangers:
        lines.append(f"{len(strangers)} answers to questions that the run does not have, the first at {strangers[0]}")
    if not info.versions:
        lines.append("run.json names no versions")
    if not run.judges():
        lines.append("no score: `vidtune judge` computes it")
    return lines
