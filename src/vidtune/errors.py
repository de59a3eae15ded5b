"""Errors that a user can cause; the command line prints them as one line and exits with code 2."""

from collections.abc import Iterator
from contextlib import contextmanager

PASSED = ("OutOfMemoryError", "AcceleratorError", "MemoryError", "DistError")
"""Names of errors of the machine: not the fault of the code that runs when they come."""


class UserError(Exception):
    """A mistake in the user's input. The message is one line: where, what is wrong, what to do.

    ``exit_code`` is the exit code of the process. ``with_options`` is the message with options of the command line,
    where the message itself names arguments of a public function; None: it is the same. ``listed`` are further lines,
    one per mistake, where one message names several.
    """

    exit_code = 2
    with_options: str | None = None
    listed: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n  ".join((super().__str__(), *self.listed))


class RecipeError(UserError):
    """A mistake in a recipe that is found after its file was read: names the key, and not the file.

    `vidtune.recipe.mistakes.of_recipe` puts the name of the file in front.
    """


class ForeignFileError(UserError):
    """A file that others wrote and that cannot be read.

    Args:
        path: the file.
        reason: what is wrong with it, without the path.

    ``cause``: how lists of samples that were left out tell such errors apart.
    """

    cause = "bad file"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["ForeignFileError"], tuple[str, str]]:
        return type(self), (self.path, self.reason)


class MediaError(ForeignFileError):
    """A media file that cannot be read, or whose reading takes too long."""

    def seen_from(self, path: str) -> str:
        """The reason, with the path if the error is about another file than ``path``: a frame in this folder."""
        return self.reason if self.path == path else str(self)


class UnreadMediaError(MediaError):
    """A media file that could not be read then, for a reason of the machine: a killed worker, a disk that is slow.

    It says nothing about the file, which is tried again.
    """

    cause = "not read then"


class ItemError(MediaError):
    """Something that an annotation asks of a media file and that is not there, such as a box outside the frame.

    It says nothing about the file: other samples may use it.
    """

    cause = "annotation"


@contextmanager
def errors_of(what: str, *passing: type[Exception]) -> Iterator[None]:
    """Code of a part or rule that may come from outside: what it raises becomes a UserError that names it.

    Errors of the machine and a UserError pass as they are.

    Args:
        what: the part, for the message: "connector type 'x'".
        passing: errors that the part may raise, which pass too.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, (UserError, *passing)) or any(base.__name__ in PASSED for base in type(error).__mro__):
            raise
        raise UserError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())}") from error
