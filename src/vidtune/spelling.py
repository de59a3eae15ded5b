"""Texts: the nearest known name, counted things, half characters, controls that are shown, what is said of damage."""

import difflib
import re
from collections.abc import Iterable

HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
r"""Half a character, such as a lone ``\ud800`` in JSON: no file can store it, and no tokenizer takes it."""

_BREAKS = {ord("\n"): r"\n", ord("\t"): r"\t", 0x2028: r"\u2028", 0x2029: r"\u2029"}
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
_CONTROLS |= {
    code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}  # which turn text around


def visible(text: str) -> str:
    r"""Returns a text as a terminal may get it: control characters, which it would obey, become escapes (``\x1b``).

    Tabs and line ends stay.
    """
    return text.translate(_CONTROLS)


def one_line(text: str) -> str:
    r"""Returns a message that stays one line, whatever it quotes: see `visible`; tabs and line ends are escaped too."""
    return visible(text).translate(_BREAKS)


def counted(number: int, thing: str) -> str:
    """Returns a number of things in words: ``1 file``, ``2 files``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def damaged(place: object, error: Exception, then: str) -> str:
    """Returns the note about a damaged cache: where it is, what is wrong, and what is done about it."""
    reason = (getattr(error, "strerror", None) or str(error)).partition("\n")[0] or type(error).__name__
    return f"{place}: damaged ({reason}); {then}"


def suggestion(name: str, known: Iterable[str]) -> str:
    """Returns the end of a message about an unknown ``name``: the nearest known name, or all if none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.55)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(names)}" if names else "none is known"


def by_numbers(text: str) -> list[tuple[float, str]]:
    """Return the key by which texts sort as a reader expects: "400 frames" before "1000 frames"."""
    return [(float(number or "inf"), other) for number, other in re.findall(r"(\d{1,300})|(\D+)", text)]
