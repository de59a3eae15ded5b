"""A conversation in a terminal: lines in, streamed answers out, commands that begin with a slash."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidtune.cli.options.target import TargetOptions
from vidtune.errors import UserError
from vidtune.spelling import suggestion

if TYPE_CHECKING:
    from vidtune.api.chat import Chat
    from vidtune.api.model import Model

PROMPT = "> "
MOST_FRAMES = 64
"""Frames of a file whose moments are listed."""


class Talk:
    """A conversation with a model. Answers go to standard output, everything else to standard error.

    Args:
        model: who answers.
        videos, images: files that the conversation begins with.
        options: further options of `Model.chat`: settings, ``target``, parts of a video.
        media_timeout: seconds that one file may take.
    """

    def __init__(
        self,
        model: "Model",
        videos: list[Path],
        images: list[Path],
        options: dict[str, Any],
        media_timeout: float,
    ) -> None:
        self.model, self.videos, self.images = model, videos, images
        self.options, self.media_timeout = options, media_timeout
        self.chat = self._new()

    def _new(self) -> "Chat":
        files = {"video": list(self.videos), "image": list(self.images)}
        return self.model.chat(**files, media_timeout=self.media_timeout, **self.options)

    def take(self, line: str) -> bool:
        """Answer a line, or do what it commands. Returns whether the conversation goes on.

        Raises:
            UserError: the question cannot be answered, or the command is wrong; the conversation is as it was.
        """
        text = line.strip()
        if not text.startswith("/"):
            if text:
                self._answer(text)
            return True
        name, _, rest = text[1:].partition(" ")
        if name == "quit":
            return False
        if name not in COMMANDS:
            raise UserError(f"/{name}: no such command; {suggestion(name, (*COMMANDS, 'quit'))}")
        COMMANDS[name][0](self, rest.strip())
        return True

    def _answer(self, text: str) -> None:
        """Stream an answer. Ctrl-C stops it: what was said is then no part of the conversation."""
        pieces = self.chat.stream(text)
        try:
            for piece in pieces:
                sys.stdout.write(piece)
                sys.stdout.flush()
        except KeyboardInterrupt:
            pieces.close()  # type: ignore[attr-defined]
            sys.stdout.write("\n")
            _note("stopped; question and answer are forgotten")
            return
        sys.stdout.write("\n")
        sys.stdout.flush()

    def add_video(self, rest: str) -> None:
        self.videos = [*self.videos, self._added("video", rest)]

    def add_image(self, rest: str) -> None:
        self.images = [*self.images, self._added("image", rest)]

    def _added(self, kind: str, rest: str) -> Path:
        path = Path(os.path.expanduser(_one_word(rest, f"/{kind}")))  # noqa: PTH111  # an unknown ~user stays
        self.chat.add(**{kind: path})
        _note(f"the next question brings {path}")
        return path

    def reset(self, rest: str) -> None:
        self.chat = self._new()
        _note("a new conversation" + (f" about {', '.join(map(str, self._files()))}" if self._files() else ""))

    def set_box(self, rest: str) -> None:
        target = TargetOptions([rest], None, None, None, None).build(self.videos, self.media_timeout) if rest else None
        before = self.options
        self.options = {**before, "target": target}
        try:
            if target is not None:
                self.model.follow(target, video=self.videos, media_timeout=self.media_timeout)
        except UserError:
            self.options = before
            raise
        self.reset("")
        if target is not None:
            _note("write <box> where the question names what is in the box")

    def frames(self, rest: str) -> None:
        from vidtune.data.sample import MediaRef
        from vidtune.media.clip_times import asked_part
        from vidtune.media.pool import MediaPool
        from vidtune.processing.batch import MediaSlot
        from vidtune.processing.shown.item import shown_item

        part = asked_part(**{name: self.options.get(name) for name in ("start", "end", "frames", "frames_at")})
        if not self.videos:
            raise UserError("/frames: there is no video; give one with /video FILE")
        with MediaPool(1, self.media_timeout) as pool:
            for path in self.videos:
                ref = MediaRef("video", str(path.resolve())).read_as(part)
                shown = shown_item(MediaSlot(ref, 1), self.model.processor.preprocessing["video"], pool, MOST_FRAMES)
                labels = shown.problem or "  ".join(label for _, label in shown.pictures)
                _note(f"{path}: {labels}")

    def history(self, rest: str) -> None:
        for turn in self.chat.turns:
            _note(f"{PROMPT if turn.role == 'user' else ''}{turn.text}")

    def help(self, rest: str) -> None:
        width = max(map(len, (usage for _, usage, _ in COMMANDS.values())))
        for _, usage, text in COMMANDS.values():
            _note(f"{usage:<{width}}  {text}")
        _note(f"{'/quit':<{width}}  leave, as Ctrl-D does; Ctrl-C stops an answer")

    def _files(self) -> list[Path]:
        return [*self.videos, *self.images]


COMMANDS: dict[str, tuple[Callable[[Talk, str], None], str, str]] = {
    "video": (Talk.add_video, "/video FILE", "add a video or folder of frames, which the next question brings"),
    "image": (Talk.add_image, "/image FILE", "add an image, which the next question brings"),
    "box": (Talk.set_box, "/box X1,Y1,X2,Y2@SECONDS", "begin anew about what is in a box; alone: without one"),
    "frames": (Talk.frames, "/frames", "list the moments of the frames that the model sees"),
    "history": (Talk.history, "/history", "show the conversation as the model gets it"),
    "reset": (Talk.reset, "/reset", "forget what was said; the files stay"),
    "help": (Talk.help, "/help", "show this"),
}


def converse(talk: Talk) -> bool:
    """Take lines until they end. Returns whether every one of them could be taken.

    A terminal gets a prompt and line editing; lines from a pipe are taken one by one.
    """
    fine = True
    for line in _typed() if sys.stdin.isatty() else sys.stdin:
        try:
            if not talk.take(line):
                break
        except UserError as error:
            fine = False
            _note(f"error: {error.with_options or error}")
        except KeyboardInterrupt:
            _note("stopped")
    return fine


def _typed() -> Iterator[str]:
    """Lines that somebody types. Ctrl-C empties the line, Ctrl-D ends them."""
    with suppress(ImportError):
        import readline  # noqa: F401  # input() then edits lines
    while True:
        try:
            yield input(PROMPT)
        except KeyboardInterrupt:
            sys.stdout.write("\n")
        except EOFError:
            sys.stdout.write("\n")
            return


def _one_word(rest: str, command: str) -> str:
    """The one path after a command; quotes allow blanks in it. Raises UserError for none, or several."""
    try:
        words = shlex.split(rest)
    except ValueError:
        words = []
    if len(words) != 1:
        raise UserError(f"{command}: give one file, in quotes if its name has blanks")
    return words[0]


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
