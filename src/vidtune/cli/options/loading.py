"""Options of several commands: which checkpoint is loaded, and what completes it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vidtune.errors import ForeignFileError, UserError
from vidtune.foreign.documents import SETTINGS_LIMIT, JsonError, parse_json, read_text

Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of a checkpoint on the hub; default: the newest.")
]
System = Annotated[
    str | None, typer.Option(help="System of a checkpoint that several systems claim; `vidtune systems` lists them.")
]
ModelBase = Annotated[
    list[str] | None,
    typer.Option(
        help="What a checkpoint that is not whole stands on; may be repeated, bottom up: language model, connector "
        "file, LoRA runs. Or where the base of a LoRA result has moved to."
    ),
]
Towers = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=WEIGHTS", help="Weights of a tower that the checkpoint comes without: file, folder or hub id."
    ),
]
ProtocolRules = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE|HARNESS",
        help="Change a rule, as generation.max_new_tokens=64; or ask as a public harness does: lmms-eval, vlmevalkit.",
    ),
]
Store = Annotated[
    Path | None,
    typer.Option(
        envvar="VIDTUNE_FEATURES",
        help="Feature store: features found there are read in the place of files, and others are kept there.",
    ),
]
Quantize = Annotated[
    str | None,
    typer.Option(metavar="4bit|8bit", help="Hold the language model in fewer bits, by bitsandbytes."),
]
Place = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PART=DEVICE",
        help="Device of the towers or of the language_model alone, as towers=cpu; layers of a language model are "
        "divided over several devices, as language_model=cuda:0,cuda:1, or auto: all GPUs.",
    ),
]
MOST_SECONDS = 1e6
"""Longest time limit."""


def limit_of(value: float) -> float:
    """Check of an option that is a time limit in seconds."""
    if not 0 < value <= MOST_SECONDS:
        raise typer.BadParameter(f"{value!r} is no time limit, give seconds above 0 and up to {MOST_SECONDS:,.0f}")
    return value


LayerProgram = Annotated[
    str | None,
    typer.Option(
        metavar="STEPS",
        help="Drop media tokens between decoder layers: JSON, or a file of it, as "
        '[{"after": 18, "drop": ["video"], "keep": 0.25, "rule": "attention", "compact": true}]; []: none. '
        "Default: the checkpoint's own.",
    ),
]


def layer_program_of(text: str | None) -> list[dict[str, Any]] | None:
    """Return the steps of ``--layer-program``, given as JSON or as a file of it; None: the option was not given.

    Raises:
        UserError: neither JSON nor a file of it, or no list of steps.
    """
    if text is None:
        return None
    try:
        steps = parse_json(text if text.lstrip()[:1] in ("[", "{") else read_text(Path(text), limit=SETTINGS_LIMIT))
    except ForeignFileError as error:
        raise UserError(f"--layer-program {error}; give JSON, or a file of it") from None
    except JsonError as error:
        raise UserError(f"--layer-program {text}: {error}; write a list of steps") from None
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise UserError(f"--layer-program {text}: write a list of steps, [{{...}}, ...]")
    return steps


def rules_of(given: Sequence[str] | None) -> dict[str, Any]:
    """Return the changed rules of a protocol, given as ``KEY=VALUE`` such as ``generation.max_new_tokens=64``.

    The name of a harness alone stands for ``harness=NAME``.
    """
    from vidtune.evaluation.benchmarks.harnesses.known import HARNESSES
    from vidtune.foreign.yaml_document import Document
    from vidtune.generation.settings import GenerationSettings
    from vidtune.recipe.overrides import override

    rules = Document({"generation": {}})
    for assignment in given or ():
        override(rules, f"harness={assignment}" if assignment in HARNESSES else assignment)
    found: dict[str, Any] = rules.value
    if isinstance(found["generation"], dict):
        GenerationSettings.from_mapping(found["generation"])
    return found


def assignments(given: Sequence[str] | None, option: str) -> dict[str, str]:
    """Return the values of a repeated option ``NAME=VALUE`` by name.

    Raises:
        UserError: a text without name or value, or a name given twice.
    """
    found: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UserError(f"{option} {text}: write {option} NAME=VALUE")
        if name in found:
            raise UserError(f"{option} {name}: given twice")
        found[name] = value
    return found
