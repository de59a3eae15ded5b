"""Variables in the text of a recipe: ``${NAME}`` and ``${NAME:-default}``.

A reference is replaced by a marker before the YAML parser reads the text. Therefore it may stand unquoted anywhere,
also inside ``{...}``, and the value of a variable can never be read as YAML syntax.
"""

import os
import re
from collections.abc import Mapping

REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}\n]*))?\}")
# A marker is made of private-use characters: opening, number of the reference, then fill up to the length of the
# reference, so that the columns in messages stay correct.
OPEN, NUMBER, FILL = "\ue000", 0xE100, "\ue001"
MARKER = re.compile(f"{OPEN}(.){FILL}*", re.DOTALL)


def required(text: str) -> list[str]:
    """Returns the names of the variables that a text needs: without those that have a default everywhere."""
    return list(dict.fromkeys(found[1] for found in REFERENCE.finditer(text) if found[2] is None))


class References:
    """The variable references of one text.

    Args:
        text: the text; must not contain `OPEN` or `FILL`.
        variables: values of the variables; None: the process environment.

    ``marked`` is the text with a marker in place of each reference.
    """

    def __init__(self, text: str, variables: Mapping[str, str] | None = None) -> None:
        self._variables = os.environ if variables is None else variables
        self._found: list[re.Match[str]] = []
        self.marked = REFERENCE.sub(self._mark, text)

    def resolve(self, marked: str) -> tuple[str, str | None]:
        """Put the values of variables in place of the markers.

        Returns:
            The text, and the name of the first variable that is not set (None: all are set). A variable that is not set
            stays in the text as it was written.
        """
        missing: list[str] = []

        def value_of(marker: re.Match[str]) -> str:
            reference = self._found[ord(marker.group(1)) - NUMBER]
            name, default = reference.groups()
            value = self._variables.get(name) or default
            if value is None:
                missing.append(name)
                return reference.group()
            return value

        return MARKER.sub(value_of, marked), missing[0] if missing else None

    def _mark(self, reference: re.Match[str]) -> str:
        self._found.append(reference)
        return (OPEN + chr(NUMBER + len(self._found) - 1)).ljust(len(reference.group()), FILL)
