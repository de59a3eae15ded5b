"""The form of facts about a test set."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Download:
    """Something that must be fetched or made.

    Args:
        what: name of the file, or of what is in it.
        url: where it is; "": it is made here, as ``what`` says.
        place: folder or file that it becomes, below the folder that is given as ``--data``.
    """

    what: str
    url: str
    place: str

    def __str__(self) -> str:
        return f"get     {self.what}{f' ({self.url})' if self.url else ''} -> {self.place}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a test set holds.

    Args:
        items: number of questions; None: not known, or as the user makes it.
        media: number of videos or pictures.
        downloads: what must be there.
        medium: what is asked about.
        counted: numbers were counted in the files; otherwise they are those of papers and may be a little off.
        answers_hidden: only a server knows the reference answers.
    """

    items: int | None
    media: int | None
    downloads: tuple[Download, ...]
    medium: str = "videos"
    counted: bool = False
    answers_hidden: bool = False

    @property
    def size(self) -> str:
        """Numbers of questions and media in words."""
        about = "" if self.counted else "~"
        items = "? questions" if self.items is None else f"{about}{self.items} questions"
        return f"{items}, {'?' if self.media is None else f'{about}{self.media}'} {self.medium}"

    def record(self) -> dict[str, Any]:
        """Returns the facts as JSON values."""
        return asdict(self)
