"""Reads YAML into plain values and remembers the line and column of each value.

Scalars follow YAML 1.1 (``yes``, ``on``, ``010``, ``1_000``), except that ``1e-3`` is a number as in YAML 1.2. Keys are
always text. A file from an unknown source is safe to read: tags build no Python objects, and the size, the depth and
the number of values, also of those that aliases and merge keys repeat, are limited.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vidtune.errors import UserError
from vidtune.foreign.documents import LONGEST_INTEGER, MAX_DEPTH, TOO_DEEP, read_text
from vidtune.foreign.variables import FILL, OPEN, References

Key = str | int
SIZE_LIMIT = 2**22
"""Bytes of a document."""
MAX_VALUES = 20_000
"""Values of a document; a value that aliases or merge keys repeat is counted each time."""
_TAG = "tag:yaml.org,2002:"
TOO_MANY = f"more than {MAX_VALUES:,} values, counting those that aliases and merge keys repeat"
MERGE = f"{_TAG}merge"
_COLLECTIONS = (f"{_TAG}map", f"{_TAG}seq")
_SCALARS = tuple(f"{_TAG}{name}" for name in ("null", "bool", "int", "float", "str", "timestamp", "binary"))
_NUMBERS = (f"{_TAG}int", f"{_TAG}float")
_SHOWN = 100
"""Characters of a wrong value in a message."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads ``1e-3`` as a number and limits the depth and the number of values of a document."""

    _depth = 0
    _count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        self._count += 1
        if self._depth > MAX_DEPTH + 1 or self._count > 2 * MAX_VALUES:  # a key and its value are two nodes
            problem = TOO_DEEP if self._depth > MAX_DEPTH + 1 else TOO_MANY
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


_Loader.add_implicit_resolver(
    f"{_TAG}float", re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)
FORBIDDEN = re.compile(f"{yaml.SafeLoader.NON_PRINTABLE.pattern}|[{OPEN}{FILL}]")
"""Characters that YAML forbids, and those that mark variables."""


@dataclass
class Document:
    """Plain values of one YAML file and the place where each of them was written.

    Args:
        value: mappings, lists and scalars.
        places: place ("file.yaml:12:5") of the value at each path of keys and indices.
        unset: message for each path whose variable is not set; the value there is the reference as it was written.
    """

    value: Any
    places: dict[tuple[Key, ...], str] = field(default_factory=dict)
    unset: dict[tuple[Key, ...], str] = field(default_factory=dict)

    def place(self, path: tuple[Key, ...]) -> str:
        """Returns the place of the value at ``path``, or of the nearest value that contains it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, "")

    def require_set(self) -> "Document":
        """Returns the document; raises UserError if a variable is not set, naming the first."""
        for message in self.unset.values():
            raise UserError(message)
        return self


def read_yaml(path: Path, variables: Mapping[str, str] | None = None) -> Document:
    """Parse a YAML file; see `parse_yaml`."""
    return parse_yaml(read_text(path, limit=SIZE_LIMIT), str(path), variables)


def parse_yaml(text: str, source: str, variables: Mapping[str, str] | None = None) -> Document:
    """Parse one YAML document.

    Args:
        text: the document.
        source: name of the document in messages, usually the path of the file.
        variables: values of ``${NAME}``; None: the process environment.

    Raises:
        UserError: wrong syntax, a forbidden character, a key that is given twice, an alias inside its own anchor, too
            many levels or values; with line and column.
    """
    if forbidden := FORBIDDEN.search(text):
        before = text[: forbidden.start()]
        where = f"{source}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
        raise UserError(f"{where}: not valid YAML: the character U+{ord(forbidden.group()):04X} is not allowed")
    references = References(text, variables)
    loader = _Loader(references.marked)
    root = _node_tree(loader, source)
    builder = _Builder(loader, source, references)
    if root is not None:
        builder.document.value = builder.build(root, (), ())
    return builder.document


def _node_tree(loader: yaml.SafeLoader, source: str) -> yaml.Node | None:
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise UserError(f"{where}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error


class _Builder:
    """Builds the plain values of one document from the nodes of the YAML parser.

    Args:
        loader: gives scalars their type.
        source: name of the document in messages.
        references: variables of the document.
    """

    def __init__(self, loader: yaml.SafeLoader, source: str, references: References) -> None:
        self.document = Document(None)
        self._loader, self._source, self._references = loader, source, references
        self._count = 0
        self._entries_of: dict[int, dict[str, _Entry]] = {}

    def build(self, node: yaml.Node, path: tuple[Key, ...], parents: tuple[int, ...]) -> Any:
        """Returns the value of a node.

        Args:
            path: keys and indices that lead to it.
            parents: identities of the nodes that contain it.
        """
        place = self._place(node)
        self.document.places.setdefault(path, place)
        self._check_size(node, place, parents)
        inside = (*parents, id(node))
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _COLLECTIONS:
            raise UserError(f"{place}: the tag {node.tag!r} is not read; leave it out")
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, index), inside) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            mapping: dict[str, Any] = {}
            for key_node, value_node in self._entries(node).values():
                key = self._text(key_node, path)
                self.document.places[*path, key] = self._place(key_node)
                mapping[key] = self.build(value_node, (*path, key), inside)
            return mapping
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, place, path)

    def _check_size(self, node: yaml.Node, place: str, parents: tuple[int, ...]) -> None:
        if id(node) in parents:
            raise UserError(f"{place}: an alias stands inside its own anchor")
        if len(parents) >= MAX_DEPTH:
            raise UserError(f"{place}: {TOO_DEEP}")
        self._count += 1
        self._require_few(place)

    def _require_few(self, place: str) -> None:
        if self._count > MAX_VALUES:
            raise UserError(f"{place}: {TOO_MANY}")

    def _entries(self, node: yaml.MappingNode, depth: int = 0) -> "dict[str, _Entry]":
        """Entries of a mapping by key. Entries of a merge key (``<<``) come first; the mapping's own replace them.

        Args:
            depth: number of merge keys that lead to the mapping.
        """
        if id(node) in self._entries_of:
            return self._entries_of[id(node)]
        if depth > MAX_DEPTH:
            raise UserError(f"{self._place(node)}: {TOO_DEEP} of merge keys")
        self._entries_of[id(node)] = {}  # what a mapping that merges itself finds
        merged: dict[str, _Entry] = {}
        own: dict[str, _Entry] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError(f"{place}: a key must be a plain word")
            if key_node.tag == MERGE:
                for mapping in reversed(self._merged_mappings(value_node)):
                    merged |= self._entries(mapping, depth + 1)
                    self._count += len(merged)
                    self._require_few(place)
            elif key_node.value in own:
                first = own[key_node.value][0].start_mark.line + 1
                raise UserError(f"{place}: the key {key_node.value!r} is given twice, first in line {first}")
            else:
                own[key_node.value] = (key_node, value_node)
        self._entries_of[id(node)] = merged | own
        return self._entries_of[id(node)]

    def _merged_mappings(self, node: yaml.Node) -> list[yaml.MappingNode]:
        """Mappings that a merge key names: one, or a list of which the first counts most."""
        mappings: list[yaml.MappingNode] = []
        for mapping in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(mapping, yaml.MappingNode):
                raise UserError(f"{self._place(mapping)}: << merges a mapping or a list of mappings")
            mappings.append(mapping)
        return mappings

    def _scalar(self, node: yaml.ScalarNode, place: str, path: tuple[Key, ...]) -> Any:
        text = self._text(node, path)
        if text != node.value:
            plain = node.style is None
            tag = self._loader.resolve(yaml.ScalarNode, text, (True, False)) if plain else node.tag
            node = yaml.ScalarNode(tag, text, node.start_mark)
        try:
            if node.tag not in _SCALARS:
                raise ValueError("an unknown tag")
            if node.tag in _NUMBERS and len(text) > LONGEST_INTEGER:
                raise ValueError("a number of too many digits")
            return self._loader.construct_object(node)
        except Exception as error:  # a tag calls a function of PyYAML, which expects the text to fit
            shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
            raise UserError(f"{place}: not a valid value: {shown!r}") from error

    def _text(self, node: yaml.Node, path: tuple[Key, ...]) -> str:
        """Text of a scalar with the values of its variables; a variable that is not set is recorded at ``path``."""
        text, missing = self._references.resolve(node.value)
        if missing is not None:
            hint = f"the variable {missing} is not set; set it, as in {missing}=/path vidtune ..."
            self.document.unset.setdefault(path, f"{self._place(node)}: {hint}")
        return text

    def _place(self, node: yaml.Node) -> str:
        return f"{self._source}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"


_Entry = tuple[yaml.ScalarNode, yaml.Node]
