"""Public functions and classes: load a model, ask it, train it, evaluate it. ``import vidtune`` gives these names."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from vidtune.data.sample import MediaRef, Turn
from vidtune.errors import UserError
from vidtune.generation.settings import Answer, FinishReason, GenerationSettings, Request
from vidtune.processing.asked_media import Paths, as_paths, asked_media, seconds_of, streams_without_files
from vidtune.processing.times import spans_in_text, with_seconds
from vidtune.registry import SYSTEMS

if TYPE_CHECKING:
    import torch

    from vidtune.checkpoints.load import Checkpoint
    from vidtune.checkpoints.report import LoadReport
    from vidtune.checkpoints.source import Source
    from vidtune.evaluation.judges.base import Judge
    from vidtune.evaluation.scores.score import Score
    from vidtune.generation.conversation import Conversation
    from vidtune.generation.engine import AnswerEngine
    from vidtune.models.video_lm import VideoLM
    from vidtune.processing.dialect import Dialect
    from vidtune.processing.processor import VideoLMProcessor
    from vidtune.recipe.types import Recipe
    from vidtune.training.run import Run

NATIVE = "vidtune"
MEDIA_TIMEOUT = 60.0
"""Seconds that one media file may take to be read."""


class Reply(str):
    """Text of an answer: a ``str`` that also tells how the answer ended.

    Attributes:
        question: what was asked.
        finish_reason: ``"eos"``, ``"stop"`` or ``"length"``.
        duration: seconds of the video, where the system writes moments and the duration is known; else None.
        spans: time spans that the answer names, as (start, end) in seconds.
    """

    question: str
    finish_reason: FinishReason
    duration: float | None
    spans: tuple[tuple[float, float], ...]
    _rule: str | None

    def __new__(cls, answer: Answer, question: str, duration: float | None = None, rule: str | None = None) -> "Reply":
        reply = super().__new__(cls, answer.text)
        reply.question, reply.finish_reason, reply.duration = question, answer.finish_reason, duration
        timed = duration is not None and rule is not None
        reply._rule = rule
        reply.spans = tuple(spans_in_text(answer.text, duration, rule)) if timed else ()  # type: ignore[arg-type]
        return reply

    def with_seconds(self) -> str:
        """The text with the seconds behind every time span in it."""
        if not self.duration or self._rule is None:
            return str(self)
        return with_seconds(str(self), self.duration, self._rule)


@dataclass(frozen=True)
class _Ask:
    """What every way of asking shares: the media, and how answers are decoded."""

    media: tuple[MediaRef, ...]
    without: frozenset[str]
    prompt: str
    settings: GenerationSettings
    duration: float | None
    timeout: float


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
        features: Mapping[str, str | Path] | None = None,
        without: Sequence[str] = (),
        duration: float | None = None,
        prompt: str | None = None,
        media_timeout: float = MEDIA_TIMEOUT,
        **settings: Any,
    ) -> Reply | list[Reply]:
        """Answer one question, or several about the same media; the media are read and encoded once.

        Args:
            question: a question, or a list of questions.
            video: video files or folders of frames.
            image: image files; they follow the videos.
            features: stream -> file of stored features that the stream reads in place of the file.
            without: streams that are switched off, such as ``"audio"``.
            duration: seconds of the video, where only features of it are given.
            prompt: name of a prompt format; None: the system's own for answering.
            media_timeout: seconds that one file may take.
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
        questions = _texts(question, "question")
        ask = self._ask(video, image, features, without, duration, prompt, media_timeout, settings)
        requests = [Request(str(number), ask.media, text) for number, text in enumerate(questions)]
        with self._engine(ask) as engine:
            found = {answer.id: answer for answer in engine.answer(requests)}
        replies = [self._reply(found[request.id], request, ask) for request in requests]
        return replies[0] if isinstance(question, str) else replies

    def stream(
        self,
        question: str,
        *,
        video: Paths = None,
        image: Paths = None,
        features: Mapping[str, str | Path] | None = None,
        without: Sequence[str] = (),
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
        ask = self._ask(video, image, features, without, None, prompt, media_timeout, settings)
        with self._engine(ask) as engine:
            yield from engine.stream(Request("0", ask.media, question))

    def chat(self, **options: Any) -> "Chat":
        """A conversation about the same media, which remembers its turns. Options as in :meth:`answer`.

        Example:
            >>> talk = vidtune.load("tiny-model").chat(video="clip.mp4", max_new_tokens=4)
            >>> first, second = talk.say("What moves?"), talk.say("And then?")
            >>> [turn.role for turn in talk.turns]
            ['user', 'assistant', 'user', 'assistant']
        """
        return Chat(self, options)

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

        _checked_path(folder, "folder")
        save_checkpoint(
            self._checkpoint(), Path(folder), format, None if difference_from is None else str(difference_from)
        )
        return Path(folder)

    def _checkpoint(self) -> "Checkpoint":
        from vidtune.checkpoints.load import Checkpoint
        from vidtune.checkpoints.report import LoadReport

        return Checkpoint(self.network, self.processor, self.report or LoadReport(NATIVE), self._loaded_from)

    def _ask(
        self,
        video: Paths,
        image: Paths,
        features: Mapping[str, str | Path] | None,
        without: Sequence[str],
        duration: float | None,
        prompt: str | None,
        timeout: float,
        settings: Mapping[str, Any],
    ) -> _Ask:
        without = _texts(without, "without")
        files = {"video": as_paths(_checked_paths(video, "video")), "image": as_paths(_checked_paths(image, "image"))}
        media = asked_media(files, features or {}, self._dialect)
        if settings.get("temperature"):
            settings = {"do_sample": True, **settings}
        if duration is None and self._dialect.times is not None:
            duration = seconds_of(media, timeout)
        return _Ask(
            media=media,
            without=frozenset((*without, *streams_without_files(media))),
            prompt=prompt or self._dialect.answering_prompt,
            settings=GenerationSettings.from_mapping(settings),
            duration=duration if self._dialect.times is not None else None,
            timeout=timeout,
        )

    def _engine(self, ask: _Ask) -> "AnswerEngine":
        from vidtune.generation.engine import AnswerEngine

        processor = self.processor.without(ask.without) if ask.without else self.processor
        workers = 1 if ask.media else 0
        return AnswerEngine(
            self.network, processor, ask.settings, prompt=ask.prompt, workers=workers, media_timeout=ask.timeout
        )

    def _reply(self, answer: Answer, request: Request, ask: _Ask) -> Reply:
        if answer.error is not None:
            raise UserError(answer.error)
        return Reply(answer, request.question, ask.duration, self._dialect.times)

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        where = f", {self._source}" if self._source else ""
        return f"<vidtune.Model {self.system}, {parameters:,} parameters{where}>"


@dataclass
class Chat:
    """A conversation with a model about the same media; made by :meth:`Model.chat`.

    Args:
        model: the model that answers.
        options: media and settings, as in :meth:`Model.answer`.
        turns: what was said, the user first; the first turn holds the tags of the media.
    """

    model: Model
    options: Mapping[str, Any] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()

    def say(self, text: str) -> Reply:
        """Say something and return the model's answer; both are remembered.

        Raises:
            UserError: as in :meth:`Model.answer`; nothing is remembered then.
        """
        ask = self._ask()
        with self._conversation(ask) as conversation:
            answer = conversation.ask(text, () if self.turns else ask.media)
        self.turns = conversation.turns
        return Reply(answer, text, ask.duration, self.model._dialect.times)

    def stream(self, text: str) -> Iterator[str]:
        """Say something and yield pieces of the answer; both are remembered when the answer is complete."""
        ask = self._ask()
        with self._conversation(ask) as conversation:
            yield from conversation.stream(text, () if self.turns else ask.media)
        self.turns = conversation.turns

    def _ask(self) -> _Ask:
        known = {"video": None, "image": None, "features": None, "without": (), "duration": None, "prompt": None}
        named: dict[str, Any] = {name: self.options.get(name, default) for name, default in known.items()}
        timeout = self.options.get("media_timeout", MEDIA_TIMEOUT)
        settings = {name: self.options[name] for name in self.options if name not in {*known, "media_timeout"}}
        return self.model._ask(**named, timeout=timeout, settings=settings)

    @contextmanager
    def _conversation(self, ask: _Ask) -> "Iterator[Conversation]":
        from vidtune.generation.conversation import Conversation

        with self.model._engine(ask) as engine:
            conversation = Conversation(engine)
            conversation.turns, conversation.media = self.turns, ask.media if self.turns else ()
            yield conversation


def load(
    checkpoint: str | Path,
    *,
    revision: str | None = None,
    system: str | None = None,
    base: Paths = None,
    towers: Mapping[str, str] | None = None,
    tokenizer: str | None = None,
    device: str | None = None,
    dtype: "str | torch.dtype | None" = None,
) -> Model:
    """Load a model from a checkpoint in any known format.

    Args:
        checkpoint: folder, file or hub id.
        revision: branch, tag or commit of a hub repository.
        system: name of the system, for a checkpoint that several systems claim.
        base: what a checkpoint that is not whole stands on, bottom up: language model, connector file, LoRA runs; or
            where the base of a LoRA result has moved to.
        towers: tower -> file, folder or hub id of its weights, for a checkpoint that comes without it.
        tokenizer: folder or hub id, when the checkpoint's folder holds none.
        device: of torch; None: a GPU when there is one.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``, or the dtype of torch; None: the checkpoint's.

    Raises:
        UserError: no checkpoint there, an unknown format, missing or unexpected keys, or no tokenizer.

    Example:
        >>> type(vidtune.load("tiny-model")).__name__
        'Model'
    """
    from vidtune.checkpoints.load import load_checkpoint
    from vidtune.machine.devices import pick_device, pick_dtype

    loaded = load_checkpoint(
        checkpoint,
        revision=revision,
        system=system,
        base=[str(place) for place in as_paths(base)] if not isinstance(base, str) else base,
        towers=towers,
        tokenizer=tokenizer,
        dtype=pick_dtype(dtype),
        device=pick_device(device),
    )
    return Model(loaded.model, loaded.processor, loaded.report, checkpoint, loaded.source)


def answer(model: Model | str | Path, question: str | Sequence[str], **options: Any) -> Any:
    """Answer questions with a model or a checkpoint; see :meth:`Model.answer`.

    Example:
        >>> len(vidtune.answer("tiny-model", "What moves?", video="clip.mp4", max_new_tokens=4)) > 0
        True
    """
    return _model(model).answer(question, **options)


def stream(model: Model | str | Path, question: str, **options: Any) -> Iterator[str]:
    """Pieces of an answer as they become certain; see :meth:`Model.stream`.

    Example:
        >>> type(next(vidtune.stream("tiny-model", "What moves?", video="clip.mp4", max_new_tokens=4)))
        <class 'str'>
    """
    return _model(model).stream(question, **options)


def chat(model: Model | str | Path, **options: Any) -> Chat:
    """A conversation with a model or a checkpoint; see :meth:`Model.chat`.

    Example:
        >>> vidtune.chat("tiny-model", video="clip.mp4").turns
        ()
    """
    return _model(model).chat(**options)


def _texts(given: str | Sequence[str], name: str) -> list[str]:
    """One text or several, as a list. Raises UserError for anything else."""
    texts = [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{name}: expected a text or a list of texts, found {given!r}")
    return [str(text) for text in texts]


def _checked_path(given: Any, name: str) -> None:
    """Raise UserError unless a value is a path."""
    if not isinstance(given, str | Path):
        raise UserError(f"{name}: expected a path, found {given!r}")


def _checked_paths(given: Paths, name: str) -> Paths:
    """Return one path, several or none as they are. Raises UserError for anything else."""
    for path in () if given is None else given if isinstance(given, list | tuple) else [given]:
        _checked_path(path, name)
    return given


def _model(model: Model | str | Path) -> Model:
    return model if isinstance(model, Model) else load(model)


def train(
    recipe: "Recipe | str | Path",
    *,
    out: str | Path,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    processes: int = 1,
    device: str | None = None,
    progress: bool = True,
) -> "Run":
    """Train all stages of a recipe into a folder; a run that was stopped goes on where it stopped.

    Args:
        recipe: a :class:`vidtune.Recipe`, a YAML file, or the name of a shipped recipe.
        out: folder of the run.
        overrides: changes such as ``["seed=1"]`` or ``{"stages.finetune.epochs": 0.5}``.
        processes: processes of this machine that train together, such as one per GPU.
        device: of torch; None: a GPU when there is one.
        progress: show progress on standard error.

    Returns: the run: ``.final`` is the folder of the last stage's checkpoint, ``.log`` its log records.
    Raises:
        UserError: a mistake in the recipe, the data or the folder; a loss that is not finite.

    Example:
        >>> run = vidtune.train("tiny.yaml", out="runs/tiny", progress=False)
        >>> run.final.name, type(vidtune.load(run.final)).__name__
        ('final', 'Model')
    """
    from vidtune.training.run import train as train_recipe

    _checked_path(out, "out")
    changes: Sequence[str]
    if isinstance(overrides, Mapping):
        changes = [f"{key}={value}" for key, value in overrides.items()]
    else:
        changes = _texts(overrides, "overrides")
    return train_recipe(recipe, changes, out=out, processes=processes, device=device, progress=progress)


def evaluate(
    model: Model | str | Path,
    benchmark: str,
    *,
    data: str | Path,
    out: str | Path,
    judge: "Judge | str | None" = None,
    blind: bool = False,
    without: Sequence[str] = (),
    features: Mapping[str, str | Path] | None = None,
    protocol: Mapping[str, Any] | None = None,
    limit: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    progress: bool = True,
) -> "Score":
    """Ask a model every question of a benchmark, score the answers, and store all of it.

    Calling it again with the same arguments asks only what was not answered before.

    Args:
        model: a loaded model, or a checkpoint.
        benchmark: name of the benchmark; ``vidtune benchmarks`` lists them.
        data: folder of the test set, or one above it.
        out: folder of results; the run goes to ``out/<benchmark>``, ``out/<benchmark>-blind`` or
            ``out/<benchmark>-without-<stream>``.
        judge: a judge, or the name of one without settings; None: the offline rules. Benchmarks that metrics score
            need none.
        blind: black frames and silence: the score of a model that neither sees nor hears.
        without: streams that are switched off.
        features: stream -> folder of stored features that are read instead of the videos.
        protocol: rules to change, such as ``{"generation": {"max_new_tokens": 64}}``.
        limit: number of questions from the start of the test set; None: all.
        device: of torch, for a checkpoint; None: a GPU when there is one.
        dtype: precision in which a checkpoint is loaded; None: its own.
        progress: show progress on standard error.

    Returns: the score: ``.accuracy``, ``.interval`` and every other named value; a notebook shows it as a table.
    Raises:
        UserError: no such benchmark, a bad test set, or a folder that holds another run.

    Example:
        >>> score = vidtune.evaluate("tiny-model", "world_qa", data="world", out="eval", progress=False)
        >>> 0 <= score.accuracy <= 1
        True
    """
    from vidtune.evaluation.evaluate import evaluate as evaluate_model
    from vidtune.evaluation.judges.base import DEFAULT_JUDGE
    from vidtune.machine.devices import pick_device

    for name, path in (("data", data), ("out", out)):
        _checked_path(path, name)
    return evaluate_model(
        model._checkpoint() if isinstance(model, Model) else model,
        benchmark,
        data=data,
        out=out,
        judge=judge or DEFAULT_JUDGE,
        blind=blind,
        without=_texts(without, "without"),
        features=features,
        protocol=protocol,
        limit=limit,
        device=pick_device(device),
        dtype=dtype,
        progress=progress,
    )
