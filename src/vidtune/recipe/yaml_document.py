"""YAML as plain values that remember their lines, with environment variables and key=value overrides.

A value may hold ``${NAME}`` or ``${NAME:-default}``. References are lifted out of the text before YAML sees it, so they
may stand unquoted anywhere, also inside ``{...}``, and a value from the environment can never be read as YAML syntax.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vidtune.errors import UserError
from vidtune.spelling import suggestion

Key = str | int
REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}\n]*))?\}")
# Private-use characters stand for a lifted reference: opening, its number, then fill, so that columns stay true.
OPEN, NUMBER, FILL = "\ue000", 0xE100, "\ue001"
LIFTED = re.compile(f"{OPEN}(.){FILL}*", re.DOTALL)


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads ``1e-3`` as a number, as YAML 1.2 does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


@dataclass
class Document:
    """Plain values of one YAML file and where each of them was written.

    Args:
        value: mappings, lists and scalars.
        places: place ("file.yaml:12") of the value at each path of keys and indices.
        unset: what to say about the values whose variable is not set; they hold the reference as it is written.
    """

    value: Any
    places: dict[tuple[Key, ...], str] = field(default_factory=dict)
    unset: dict[tuple[Key, ...], str] = field(default_factory=dict)

    def place(self, path: tuple[Key, ...]) -> str:
        """Where the value at ``path`` was written, or the nearest thing around it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, "")

    def require_set(self) -> "Document":
        """The document itself; raises UserError naming the first variable that is not set."""
        for message in self.unset.values():
            raise UserError(message)
        return self

    def override(self, assignment: str) -> None:
        """Apply ``a.b.c=value``; list items are addressed by index or by their ``name``, the value is YAML.

        Raises:
            UserError: the assignment has no ``=``, or leads through something that is not there.
        """
        dotted, equals, text = assignment.partition("=")
        if not equals or not dotted.strip():
            raise UserError(f"override {assignment!r}: expected key=value, for example seed=1 or stages.0.epochs=2")
        source = f"override {assignment!r}"
        value = parse_yaml(text, source).require_set().value
        parts = dotted.strip().split(".")
        path: tuple[Key, ...] = ()
        here = self.value
        while parts:
            key: Key
            if isinstance(here, list):
                key, taken = _item_index(here, parts[0], source), 1
                if len(parts) > 1 and isinstance(here[key], str):
                    here[key] = {"name": here[key]}
            elif isinstance(here, dict):
                key, taken = _mapping_key(here, parts, inside=path[-1] if path else "")
                if here.get(key) is None:
                    here[key] = {}
                    self.places[*path, key] = source
            else:
                raise UserError(f"{source}: {_dotted(path)} is {here!r} and has no keys")
            path, parts = (*path, key), parts[taken:]
            if not parts:
                here[key] = value
            here = here[key]
        self.places = {known: place for known, place in self.places.items() if known[: len(path)] != path}
        self.unset = {known: message for known, message in self.unset.items() if known[: len(path)] != path}
        self.places[path] = source


def parse_yaml(text: str, source: str, variables: Mapping[str, str] | None = None) -> Document:
    """Parse one YAML document.

    Args:
        text: the document.
        source: what errors call it, usually the file's path.
        variables: values of ``${NAME}``; None: the process environment.

    Raises:
        UserError: wrong syntax (with line and column), a key given twice.
    """
    variables = os.environ if variables is None else variables
    references: list[re.Match[str]] = []

    def lift(match: re.Match[str]) -> str:
        references.append(match)
        return (OPEN + chr(NUMBER + len(references) - 1)).ljust(len(match.group()), FILL)

    loader = _Loader(REFERENCE.sub(lift, text))
    try:
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise UserError(f"{where}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error

    document = Document(None)

    def restore(scalar: str, place: str, path: tuple[Key, ...]) -> str:
        def value_of(match: re.Match[str]) -> str:
            reference = references[ord(match.group(1)) - NUMBER]
            name, default = reference.groups()
            value = variables.get(name) or default
            if value is None:
                hint = f"the variable {name} is not set; set it, as in {name}=/path vidtune ..."
                document.unset.setdefault(path, f"{place}: {hint}")
                return reference.group()
            return value

        return LIFTED.sub(value_of, scalar)

    def build(node: yaml.Node, path: tuple[Key, ...], parents: tuple[int, ...]) -> Any:
        place = f"{source}:{node.start_mark.line + 1}"
        document.places.setdefault(path, place)
        if id(node) in parents:
            raise UserError(f"{place}: an alias stands inside its own anchor")
        parents = (*parents, id(node))
        if isinstance(node, yaml.SequenceNode):
            return [build(item, (*path, index), parents) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            _refuse_duplicate_keys(node, source)
            loader.flatten_mapping(node)
            mapping: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key = restore(key_node.value, place, path)
                document.places[*path, key] = f"{source}:{key_node.start_mark.line + 1}"
                mapping[key] = build(value_node, (*path, key), parents)
            return mapping
        assert isinstance(node, yaml.ScalarNode)
        restored = restore(node.value, place, path)
        if restored != node.value and node.style is None:
            node = yaml.ScalarNode(loader.resolve(yaml.ScalarNode, restored, (True, False)), restored, node.start_mark)
        else:
            node.value = restored
        try:
            return loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise UserError(f"{place}: not a valid value: {restored!r}") from error

    document.value = None if root is None else build(root, (), ())
    return document


def read_yaml(path: Path, variables: Mapping[str, str] | None = None) -> Document:
    """Parse a YAML file; see `parse_yaml`."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a UTF-8 text file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_yaml(text, str(path), variables)


def _refuse_duplicate_keys(node: yaml.MappingNode, source: str) -> None:
    seen: dict[str, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{source}:{line}: a key must be a plain word")
        if key_node.value in seen and key_node.value != "<<":
            raise UserError(
                f"{source}:{line}: the key {key_node.value!r} is given twice, first in line {seen[key_node.value]}"
            )
        seen[key_node.value] = line


def _mapping_key(mapping: dict[str, Any], parts: list[str], inside: Key) -> tuple[str, int]:
    """The key of ``mapping`` that starts the dotted rest, and how many parts it takes; a key may hold dots itself."""
    for taken in range(len(parts), 0, -1):
        if ".".join(parts[:taken]) in mapping:
            return ".".join(parts[:taken]), taken
    if inside == "train":
        return ".".join(parts), len(parts)
    return parts[0], 1


def _item_index(items: list[Any], part: str, source: str) -> int:
    names = [item.get("name") if isinstance(item, dict) else item for item in items]
    if part in names:
        return names.index(part)
    if part.isdigit() and int(part) < len(items):
        return int(part)
    known = [name for name in names if isinstance(name, str)]
    raise UserError(f"{source}: there is no {part!r} among {len(items)} items; {suggestion(part, known)}")


def _dotted(path: tuple[Key, ...]) -> str:
    return ".".join(str(key) for key in path)
