"""Which samples of an annotation file are used: all, a block of them, or some at random; a number or a share."""

import re
from dataclasses import dataclass

from vidtune.spelling import suggestion

BLOCKS = {"first": 0, "first2": 1, "first3": 2, "first4": 3}
"""Word -> number of the block that it takes, counted from the start of the file."""
ALL, END, RANDOM = "all", "end", "random"
FORM = re.compile(r"(?P<word>\w+):(?P<amount>[0-9]{1,12})(?P<percent>%?)")


@dataclass(frozen=True)
class Sampling:
    """A part of the samples of a file.

    Args:
        word: "all"; "first", "first2", "first3", "first4": the first, second, third, fourth block of the wanted size;
            "end": the last samples; "random": a random part.
        amount: wanted number of samples, or percent of the file; without effect for "all".
        is_percent: whether the amount is in percent.
    """

    word: str = ALL
    amount: int = 100
    is_percent: bool = True

    @classmethod
    def parse(cls, text: str) -> "Sampling":
        """Return the part that a text names, such as ``all``, ``first:1000`` or ``end:25%``.

        Raises:
            ValueError: an unknown word (names the nearest), or an amount that is no whole number above 0, or above 100
                percent.
        """
        if text == ALL:
            return cls()
        word = text.partition(":")[0]
        known = (ALL, *BLOCKS, END, RANDOM)
        if word not in known:
            raise ValueError(f"unknown sampling {text!r}; {suggestion(word, known)}")
        match = FORM.fullmatch(text)
        if word == ALL or match is None or not int(match["amount"]):
            example = ALL if word == ALL else f"{word}:1000, or {word}:25% with a whole number of percent"
            raise ValueError(f"wrong sampling {text!r}; write {example}")
        if match["percent"] and int(match["amount"]) > 100:
            raise ValueError(f"wrong sampling {text!r}; a file has no more than 100% of its samples")
        return cls(word, int(match["amount"]), bool(match["percent"]))

    def size(self, count: int) -> int:
        """Returns the wanted number of samples of a file of ``count``; a share is rounded up."""
        return -(-count * self.amount // 100) if self.is_percent else self.amount

    def block(self, count: int) -> range:
        """Returns the indices of a part that is not random; it ends with the file."""
        size = self.size(count)
        if self.word in BLOCKS:
            start = BLOCKS[self.word] * size
            return range(min(start, count), min(start + size, count))
        return range(max(0, count - size), count)


def known_sampling(text: str) -> str:
    """Returns a text that names a part of the samples; raises ValueError for any other, see `Sampling.parse`."""
    Sampling.parse(text)
    return text
