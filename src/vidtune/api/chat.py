"""A conversation with a model, as a Python user has it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vidtune.api.arguments import checked_paths, names_arguments
from vidtune.api.ask import MEDIA_TIMEOUT, Ask
from vidtune.api.reply import Reply
from vidtune.data.sample import MediaRef, Turn
from vidtune.errors import UserError
from vidtune.processing.asked_media import Paths, as_paths, asked_media

if TYPE_CHECKING:
    from vidtune.api.model import Model
    from vidtune.generation.conversation import Conversation
    from vidtune.media.boxes.located import LocatedTarget

_READING = ("start", "end", "frames", "frames_at")
"""Options that say which frames of a video are read."""


@dataclass
class Chat:
    """A conversation with a model about the same media; made by :meth:`Model.chat`.

    Args:
        model: the model that answers.
        options: media and settings, as in :meth:`Model.answer`.
        turns: what was said, the user first; the first turn holds the tags of the media.
    """

    model: "Model"
    options: Mapping[str, Any] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()
    _target: "LocatedTarget | None" = field(default=None, init=False, repr=False)
    _media: tuple[MediaRef, ...] = field(default=(), init=False, repr=False)
    _added: tuple[MediaRef, ...] = field(default=(), init=False, repr=False)

    @names_arguments
    def add(self, *, video: Paths = None, image: Paths = None) -> None:
        """Add files, which the next text brings along: the conversation goes on about them too.

        Args:
            video, image: as in :meth:`Model.answer`.

        Raises:
            UserError: a file that does not exist.
        """
        files = {"video": as_paths(checked_paths(video, "video")), "image": as_paths(checked_paths(image, "image"))}
        self._added += asked_media(files, {}, self.model._dialect)

    def say(self, text: str, **settings: Any) -> Reply:
        """Say something and return the model's answer; both are remembered.

        Args:
            settings: must be empty; media and settings are given once, to :meth:`Model.chat`.

        Raises:
            UserError: as in :meth:`Model.answer`, or ``settings`` are given; nothing is remembered then.
        """
        _refuse(settings, "say")
        ask = self._ask()
        with self._conversation(ask) as conversation:
            answer = conversation.ask(text, self._brought(ask, text))
        self._keep(conversation)
        return Reply(answer, text, ask.duration, self.model._dialect.times)

    def stream(self, text: str, **settings: Any) -> Iterator[str]:
        """Say something and yield pieces of the answer; both are remembered when the answer is complete. Arguments and
        errors as in :meth:`say`.
        """
        _refuse(settings, "stream")
        ask = self._ask()
        with self._conversation(ask) as conversation:
            yield from conversation.stream(text, self._brought(ask, text))
        self._keep(conversation)

    def _ask(self) -> Ask:
        known = dict.fromkeys(("video", "image", "target", "features", "duration", "prompt")) | {"without": ()}
        named: dict[str, Any] = {name: self.options.get(name, default) for name, default in known.items()}
        timeout = self.options.get("media_timeout", MEDIA_TIMEOUT)
        if named["target"] is not None:  # followed once, not in every turn
            self._target = self._target or self.model.follow(
                named["target"], video=named["video"], media_timeout=timeout
            )
            named["target"] = self._target
        settings = {
            name: self.options[name] for name in self.options if name not in {*known, *_READING, "media_timeout"}
        }
        reading: dict[str, Any] = {name: self.options.get(name) for name in _READING}
        return self.model._ask(**named, **reading, timeout=timeout, settings=settings)

    def _brought(self, ask: Ask, text: str) -> tuple[MediaRef, ...]:
        """The media that a text brings into the conversation."""
        return (*ask.media_of(text, later=bool(self.turns)), *self._added)

    def _keep(self, conversation: "Conversation") -> None:
        self.turns, self._media, self._added = conversation.turns, conversation.media, ()

    @contextmanager
    def _conversation(self, ask: Ask) -> "Iterator[Conversation]":
        from vidtune.generation.conversation import Conversation

        with self.model._engine(replace(ask, media=(*ask.media, *self._media, *self._added))) as engine:
            conversation = Conversation(engine)
            conversation.turns, conversation.media = self.turns, self._media or (ask.media if self.turns else ())
            yield conversation


def _refuse(settings: Mapping[str, Any], method: str) -> None:
    if settings:
        name = next(iter(settings))
        raise UserError(f"{method}: takes the text alone; give {name}= to chat(...), for the whole conversation")
