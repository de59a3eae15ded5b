"""Errors that a user can cause; the command line prints them as one line and exits with code 2."""


class UserError(Exception):
    """A mistake in the user's input. The message is one line: where, what is wrong, what to do.

    ``exit_code`` is the exit code of the process.
    """

    exit_code = 2


class MediaError(UserError):
    """A media file that cannot be read, or whose reading takes too long.

    Args:
        path: the file.
        reason: what is wrong with it, without the path.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["MediaError"], tuple[str, str]]:
        return MediaError, (self.path, self.reason)
