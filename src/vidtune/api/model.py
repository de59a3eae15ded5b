"""A loaded model, as a Python user has it: asked, talked to and saved."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from vidtune.api.arguments import checked_path, checked_paths, names_arguments, texts_of
from vidtune.api.ask import MEDIA_TIMEOUT, Ask
from vidtune.api.chat import Chat
from vidtune.api.reply import Reply
from vidtune.api.target import Target, only_video
from vidtune.errors import UserError
from vidtune.generation.settings import Answer, GenerationSettings, Request
from vidtune.media.boxes.drawing import check_drawing, draw_target
from vidtune.media.boxes.located import LocatedTarget
from vidtune.media.clip_times import asked_part
from vidtune.processing.asked_media import (
    Paths,
    as_paths,
    asked_media,
    require_files,
    seconds_of,
    streams_without_files,
    target_media,
)
from vidtune.registry import SYSTEMS

if TYPE_CHECKING:
    from vidtune.checkpoints.load import Checkpoint
    from vidtune.checkpoints.report import LoadReport
    from vidtune.checkpoints.source import Source
    from vidtune.generation.engine import AnswerEngine
    from vidtune.models.video_lm import VideoLM
    from vidtune.processing.dialect import Dialect
    from vidtune.processing.processor import VideoLMProcessor

NATIVE = "vidtune"


class Model:
    """A loaded video language model with its processor; made by :func:`load`.

    Several threads may use one model at the same time.

    Attributes:
        network: the ``torch.nn.Module``, a :class:`vidtune.models.video_lm.VideoLM`.
        processor: tokenizer, prompt formats and preprocessing.
        report: which keys of the checkpoint were loaded; None for a model that was not loaded from one.
    """

    def __init__(
        self,
        network: "VideoLM",
        processor: "VideoLMProcessor",
        report: "LoadReport | None" = None,
        source: str | Path | None = None,
        loaded_from: "Source | None" = None,
    ) -> None:
        self.network, self.processor, self.report = network, processor, report
        self._source, self._loaded_from = source, loaded_from

    @property
    def system(self) -> str:
        """Name of the published system that the model belongs to."""
        return self.processor.system

    @property
    def _dialect(self) -> "Dialect":
        return SYSTEMS[self.system].dialect

    @overload
    def answer(self, question: str, **options: Any) -> Reply: ...
    @overload
    def answer(self, question: Sequence[str], **options: Any) -> list[Reply]: ...
    def answer(
        self,
        question: str | Sequence[str],
        *,
        video: Paths = None,
        image: Paths = None,
        target: Target | LocatedTarget | None = None,
        features: Mapping[str, str | Path] | None = None,
        without: Sequence[str] = (),
        start: float | None = None,
        end: float | None = None,
        frames: int | None = None,
        frames_at: Sequence[float] | None = None,
        duration: float | None = None,
        prompt: str | None = None,
        media_timeout: float = MEDIA_TIMEOUT,
        store: str | Path | None = None,
        **settings: Any,
    ) -> Reply | list[Reply]:
        """Answer one question, or several about the same media; the media are read and encoded once.

        Args:
            question: a question, or a list of questions.
            video: video files or folders of frames.
            image: image files; they follow the videos.
            target: what ``<box>`` in every question is about, in the one video.
            features: stream -> file of stored features that the stream reads in place of the file.
            without: streams that are switched off, such as ``"audio"``.
            start, end: seconds of the one video between which it is read; None: from its start, to its end. Moments in
                an answer count from ``start``.
            frames: number of frames that are read of every video; None: as many as the model was trained with. An
                answer about another number has :attr:`Reply.untrained` set.
            frames_at: seconds of the one video whose frames are read, ascending; not beside ``start``, ``end`` and
                ``frames``.
            duration: seconds of the video, where only features of it are given.
            prompt: name of a prompt format; None: the system's own for answering.
            media_timeout: seconds that one file may take.
            store: folder of the feature store: features found there are read in the place of files, others are kept.
            settings: fields of :class:`vidtune.generation.settings.GenerationSettings`, such as ``max_new_tokens``,
                ``temperature``, ``top_p`` and ``seed``. A temperature above 0 draws tokens.

        Returns: a :class:`Reply` for one question, a list of them for several.
        Raises:
            UserError: a file, stream or setting that does not exist, or a question that cannot be answered.

        Example:
            >>> model = vidtune.load("tiny-model")
            >>> reply = model.answer("What moves?", video="clip.mp4", max_new_tokens=4)
            >>> reply.finish_reason
            'length'
            >>> len(model.answer(["What moves?", "What colour is it?"], video="clip.mp4", max_new_tokens=4))
            2
        """
        questions = texts_of(question, "question")
        reading: dict[str, Any] = {"start": start, "end": end, "frames": frames, "frames_at": frames_at}
        ask = self._ask(video, image, target, features, without, duration, prompt, media_timeout, settings, **reading)
        requests = [Request(str(number), ask.media_of(text), text) for number, text in enumerate(questions)]
        with self._engine(ask, store) as engine:
            found = {answer.id: answer for answer in engine.answer(requests)}
        replies = [self._reply(found[request.id], request, ask) for request in requests]
        return replies[0] if isinstance(question, str) else replies

    def stream(
        self,
        question: str,
        *,
        video: Paths = None,
        image: Paths = None,
        target: Target | LocatedTarget | None = None,
        features: Mapping[str, str | Path] | None = None,
        without: Sequence[str] = (),
        start: float | None = None,
        end: float | None = None,
        frames: int | None = None,
        frames_at: Sequence[float] | None = None,
        prompt: str | None = None,
        media_timeout: float = MEDIA_TIMEOUT,
        **settings: Any,
    ) -> Iterator[str]:
        """Pieces of an answer's text as they become certain; joined, they are the answer. Arguments as in
        :meth:`answer`, but without ``duration``.

        Example:
            >>> model = vidtune.load("tiny-model")
            >>> pieces = list(model.stream("What moves?", video="clip.mp4", max_new_tokens=4))
            >>> "".join(pieces) == model.answer("What moves?", video="clip.mp4", max_new_tokens=4)
            True
        """
        reading: dict[str, Any] = {"start": start, "end": end, "frames": frames, "frames_at": frames_at}
        ask = self._ask(video, image, target, features, without, None, prompt, media_timeout, settings, **reading)
        with self._engine(ask) as engine:
            yield from engine.stream(Request("0", ask.media_of(question), question))

    def chat(self, **options: Any) -> "Chat":
        """A conversation about the same media, which remembers its turns. Options as in :meth:`answer`.

        Example:
            >>> talk = vidtune.load("tiny-model").chat(video="clip.mp4", max_new_tokens=4)
            >>> first, second = talk.say("What moves?"), talk.say("And then?")
            >>> print(*(turn.role for turn in talk.turns))
            user assistant user assistant
        """
        return Chat(self, options)

    @names_arguments
    def save(self, folder: str | Path, format: str = NATIVE, difference_from: str | Path | None = None) -> Path:
        """Write the model as a checkpoint folder.

        Args:
            folder: a new or empty folder.
            format: ``"vidtune"``, or a format of the system that ``vidtune systems`` lists, such as ``"official"``.
            difference_from: language model to which a format holds differences; None: the one from which the model was
                loaded.

        Returns: the folder.
        Raises:
            UserError: the folder is not empty, or the format cannot hold this model.

        Example:
            >>> vidtune.load("tiny-model").save("copy", format="official").name
            'copy'
        """
        from vidtune.checkpoints.write import save_checkpoint

        checked_path(folder, "folder")
        save_checkpoint(
            self._checkpoint(), Path(folder), format, None if difference_from is None else str(difference_from)
        )
        return Path(folder)

    @names_arguments
    def follow(
        self, target: Target | LocatedTarget, *, video: Paths = None, media_timeout: float = MEDIA_TIMEOUT
    ) -> LocatedTarget:
        """A target as this model takes it: in pixels of the frames of the video, with the track that its tracker finds.

        What it returns may be asked about again and again without following the target anew.

        Raises:
            UserError: the model takes no boxes, the box is not in the video, or there is not one video.
        """
        return self._followed(target, video, media_timeout)

    @names_arguments
    def draw(
        self,
        out: str | Path,
        *,
        target: Target | LocatedTarget,
        video: Paths = None,
        media_timeout: float = MEDIA_TIMEOUT,
    ) -> Path:
        """Draw a target: the whole video with its boxes (.mp4), or the frames that the model is shown of it (.png).

        Args:
            out: the file to write.
            target: what is drawn; the asked box is red, boxes of the track are green.
            video: the video; not needed for what :meth:`follow` returns.

        Raises:
            UserError: as :meth:`follow`, or ``out`` cannot be written.
        """
        located = self._followed(target, video, media_timeout)
        checked_path(out, "out")
        check_drawing(Path(out), Path(located.video))
        draw_target(located, Path(out), self._most_boxes)
        return Path(out)

    @property
    def _target_streams(self) -> tuple[str, str]:
        """Names of the streams of a box and of its track. Raises UserError if the model has none."""
        streams = self._dialect.target
        if streams is None or not set(streams) <= set(self.processor.streams):
            where = f"system {self.system}" if streams is None else "this checkpoint"
            raise UserError(f"{where} takes no boxes, only {', '.join(self.processor.streams)}: leave out --box")
        return streams

    @property
    def _most_boxes(self) -> int:
        """Largest number of boxes of a track that the model takes."""
        preprocessing = self.processor.preprocessing[self._target_streams[1]]
        return int(preprocessing.output_shape()[1])

    def _followed(self, target: Target | LocatedTarget, video: Paths, timeout: float) -> LocatedTarget:
        if not isinstance(target, Target | LocatedTarget):
            raise UserError(f"target: expected a vidtune.Target, found {target!r}")
        streams, videos = self._target_streams, as_paths(checked_paths(video, "video"))
        if isinstance(target, LocatedTarget) and (
            not videos or [str(path.resolve()) for path in videos] == [target.video]
        ):
            return target
        if isinstance(target, LocatedTarget):
            raise UserError(f"--box: the target is in {target.video}, but another --video is asked about")
        video = only_video(videos)
        require_files({streams[0]: [video]})
        return target.follow(video, timeout)

    def _checkpoint(self) -> "Checkpoint":
        from vidtune.checkpoints.load import Checkpoint
        from vidtune.checkpoints.report import LoadReport

        return Checkpoint(self.network, self.processor, self.report or LoadReport(NATIVE), self._loaded_from)

    @names_arguments
    def _ask(
        self,
        video: Paths,
        image: Paths,
        target: Target | LocatedTarget | None,
        features: Mapping[str, str | Path] | None,
        without: Sequence[str],
        duration: float | None,
        prompt: str | None,
        timeout: float,
        settings: Mapping[str, Any],
        start: float | None = None,
        end: float | None = None,
        frames: int | None = None,
        frames_at: Sequence[float] | None = None,
    ) -> Ask:
        without = texts_of(without, "without")
        files = {"video": as_paths(checked_paths(video, "video")), "image": as_paths(checked_paths(image, "image"))}
        part = asked_part(start, end, frames, frames_at)
        media = asked_media(files, features or {}, self._dialect, part)
        if target is not None:
            located = self._followed(target, video, timeout)
            media += target_media(located, self._target_streams, self._most_boxes)
        if settings.get("temperature"):
            settings = {"do_sample": True, **settings}
        if duration is None and self._dialect.times is not None:
            duration = seconds_of(media, timeout)
        return Ask(
            media=media,
            without=frozenset((*without, *streams_without_files(media))),
            prompt=prompt or self._dialect.answering_prompt,
            settings=GenerationSettings.from_mapping(settings),
            duration=duration if self._dialect.times is not None else None,
            timeout=timeout,
            box=self._dialect.target[0] if self._dialect.target else None,
        )

    def _engine(self, ask: Ask, store: str | Path | None = None) -> "AnswerEngine":
        from vidtune.features.answering import AnsweringFeatures
        from vidtune.generation.engine import AnswerEngine

        processor = self.processor.without(ask.without) if ask.without else self.processor
        workers = 1 if ask.media else 0
        if store is not None:
            checked_path(store, "store")
        stored = None if store is None else AnsweringFeatures(Path(store), self.network, processor)
        return AnswerEngine(
            self.network,
            processor,
            ask.settings,
            prompt=ask.prompt,
            workers=workers,
            media_timeout=ask.timeout,
            stored=stored,
        )

    def _reply(self, answer: Answer, request: Request, ask: Ask) -> Reply:
        if answer.error is not None:
            raise UserError(answer.error)
        return Reply(answer, request.question, ask.duration, self._dialect.times)

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        where = f", {self._source}" if self._source else ""
        return f"<vidtune.Model {self.system}, {parameters:,} parameters{where}>"
