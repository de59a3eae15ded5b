"""A question of a test set, and the answer that a model gives to it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vidtune.data.sample import MediaRef
from vidtune.errors import UserError
from vidtune.evaluation.protocol import Protocol
from vidtune.foreign.documents import require_types, types_of

LARGEST_MARGIN = 100.0
"""Margins are stored up to this one: larger ones say no more, and their last digits depend on the batch."""
_MOMENTS = {"timestamp", "timestamps"}
"""Keys of references that hold moments of a video."""
FRAGILE_MARGIN = 1.0
"""Largest margin of a fragile answer: rounding each of two logits moves their distance by one step at most."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its reference answer.

    Args:
        index: position in the test set; unique, and the same however the questions are split.
        id: official id, as a string; a test set may repeat one.
        video: name of the video; questions about one video form a cluster in the statistics.
        file: path of the video below `QuestionSet.folder`; None: none has the name that the protocol gives it.
        type: name of the question type, if the benchmark has types.
        fields: values of further fields in the protocol's template of this type.
        reference: JSON values that metrics compare the answer with; None where a judge compares it with ``answer``.
        features: (stream, path) of stored features that are read instead of the file.
        similar: path of the video of a similar name; see `benchmarks.named_files`.
        looked_for: where the video or its features were looked for, and which file is near; None when there is one of
            the name that the protocol gives it.
        took: path of the file of a similar name that is asked about all the same; the published scripts would not.
        media: further media that the question is about, such as a box in a frame, in the order of their tags in the
            text; paths are absolute, or below `QuestionSet.folder`.
        second: another question about the same video, asked on its own; both answers are scored together.
        second_answer: reference answer of the second question; None: that of the first.
        asked_as: index of an earlier question with the same text and media, whose answer is also the answer to this
            one; None: this one is asked.
        problem: why it cannot be asked, whatever files there are, in words that are equal for all such questions; then
            ``looked_for`` holds what is wrong here. None: nothing.
        judge_prompt: name of the published prompt by which a chat model judges the answer; None: that of video QA.
        judge_texts: further texts that this prompt shows, by the names of its fields.
        options: texts of the options of a multiple-choice question, in their order.
        start, end: seconds of the video between which it is asked about; None: from its start, to its end.
        media_alone: ``media`` is all that the question is about, in the order of the prompt: the video itself does not
            stand before it. Without ``media`` it is asked by its text alone.
        media_in_text: the text holds the tags of all media at their places, such as frames between subtitles.
        fps: frames per second of a folder of frames, or other ones than the file states; None: those of the file.
        further_answers: reference answers that are right besides ``answer``.
        stream: stream that reads ``file``; None: that of the protocol.
    """

    index: int
    id: str
    video: str
    file: str | None
    question: str
    answer: str | int | float
    type: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    reference: Mapping[str, Any] | None = None
    features: tuple[tuple[str, str], ...] = ()
    similar: str | None = None
    looked_for: str | None = None
    took: str | None = None
    media: tuple[MediaRef, ...] = ()
    second: str | None = None
    second_answer: str | None = None
    asked_as: int | None = None
    problem: str | None = None
    judge_prompt: str | None = None
    judge_texts: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    start: float | None = None
    end: float | None = None
    fps: float | None = None
    media_alone: bool = False
    media_in_text: bool = False
    further_answers: tuple[str, ...] = ()
    stream: str | None = None

    @property
    def missing(self) -> bool:
        """Whether there is neither a video nor stored features to ask about, and they are asked about."""
        return self.file is None and not self.features and not self.text_alone

    @property
    def text_alone(self) -> bool:
        """Whether it is asked about no media."""
        return self.media_alone and not self.media

    @property
    def asked(self) -> int:
        """Index of the question that is asked for it: its own, or ``asked_as``."""
        return self.index if self.asked_as is None else self.asked_as


@dataclass(frozen=True)
class QuestionSet:
    """The questions of a benchmark, as read from disk.

    Args:
        folder: absolute path of the folder that contains every video.
        fingerprint: hash of the question and answer files.
        features: stream -> absolute path of the folder of stored features that are read instead of the videos. A test
            set may bring them itself.
        file: absolute path of the file that a test set of one's own is; None: the benchmark is registered.
    """

    benchmark: str
    folder: Path
    fingerprint: str
    questions: tuple[Question, ...] = field(repr=False)
    features: Mapping[str, str] = field(default_factory=dict)
    file: str | None = None

    def with_similar_files(self) -> "QuestionSet":
        """Returns the questions with videos of similar names, where none has the name that the protocol gives it.

        The published scripts leave such questions out.
        """
        found = [
            replace(one, file=one.similar, took=one.similar) if one.file is None and one.similar is not None else one
            for one in self.questions
        ]
        return replace(self, questions=tuple(found))


def group_by_video(questions: Sequence[Question]) -> list[list[Question]]:
    """Returns the questions of each video, videos in the order of their first question.

    Questions that share an answer stand in the group of the one that is asked (`Question.asked`); those about the same
    part and media of the video stand next to each other.
    """
    videos = {question.index: question.video for question in questions}
    groups: dict[str, dict[object, list[Question]]] = {}
    for question in questions:
        read = (question.stream, question.start, question.end, question.fps, question.media, question.features)
        groups.setdefault(videos.get(question.asked, question.video), {}).setdefault(read, []).append(question)
    return [[question for alike in group.values() for question in alike] for group in groups.values()]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One line of ``predictions.jsonl``.

    Args:
        pred: answer after post-processing; empty when there was an error or the model gave an empty answer.
        file: path of the video below the folder of the test set.
        finish_reason: why generation ended.
        error: why the question could not be asked (unreadable video, too long); None: it was asked.
        second: ``question``, ``pred`` and ``finish_reason`` of `Question.second`; runs of earlier versions lack the
            last.
        judge_prompt, judge_texts: see `Question`.
        likelihoods: mean log-likelihood per token of each option, where the most likely one is the answer.
        margin: see `generation.settings.Answer`, at most `LARGEST_MARGIN`; of two answers the smaller one. None: of a
            sampled answer, of the most likely option, or of a run of an earlier version.
        further_answers: see `Question`.
        open: True where the video could not be read then, for a reason of the machine: the same command asks again.
    """

    id: str
    question: str
    answer: str | int | float
    pred: str
    index: int
    video: str
    file: str | None = None
    type: str | None = None
    finish_reason: str | None = None
    error: str | None = None
    second: Mapping[str, str] | None = None
    judge_prompt: str | None = None
    judge_texts: Mapping[str, str] | None = None
    likelihoods: Sequence[float] | None = None
    margin: float | None = None
    further_answers: Sequence[str] | None = None
    open: bool | None = None

    @property
    def fragile(self) -> bool | None:
        """Whether rounding alone can change a greedy answer, as on another machine; None where that is not known."""
        return None if self.margin is None else self.margin <= FRAGILE_MARGIN

    def record(self) -> dict[str, Any]:
        """Returns the line as a mapping, without fields that are None: the official judge evaluates lines as Python."""
        return {key: value for key, value in asdict(self).items() if value is not None}


_TYPES = types_of(Prediction)


def read_prediction(file: Path, record: dict[str, Any]) -> Prediction:
    """Returns the prediction that a line of a file holds; unknown fields are ignored.

    Raises:
        UserError: a field is missing or of another type; names the file and the field.
    """
    try:
        require_types(record, _TYPES)
    except ValueError as error:
        raise UserError(f"{file}: a record ({record.get('id')!r}): {error}") from None
    return Prediction(**{key: value for key, value in record.items() if key in _TYPES})


def media_of(question: Question, protocol: Protocol, folder: Path) -> tuple[MediaRef, ...]:
    """Returns the media of a question, in the order of their tags; ``folder`` is that of the test set."""
    further = tuple(replace(ref, path=str(folder / ref.path) if ref.path else "") for ref in question.media)
    if question.media_alone:
        return further
    path, stream = "" if question.file is None else str(folder / question.file), question.stream or protocol.stream
    medium = MediaRef(stream, path, question.features, start=question.start, end=question.end, fps=question.fps)
    if protocol.reading is not None and stream == protocol.stream:
        medium = medium.read_as(protocol.reading.over(medium.part))
    return (medium, *further)


def require_reading(protocol: Protocol, questions: QuestionSet) -> None:
    """Raise UserError for rules of reading that do not go with what the questions are about."""
    reading, where = protocol.reading, f"{protocol.benchmark}: reading"
    if reading is None:
        return
    if protocol.stream == "image":
        raise UserError(f"{where}: the questions are about pictures; leave out --frames and the like")
    if protocol.stream in protocol.features:
        raise UserError(f"{where}: stored features hold the frames that were taken then; leave one of both out")
    part = reading.over(None)
    if part.is_cut or part.frames_at:
        named = next((one for one in questions.questions if (one.start, one.end) != (None, None)), None)
        if named is not None:
            raise UserError(
                f"{where}: question {named.id} names its own part of a video; leave out start, end, frames_at"
            )
    if part.is_cut and any(_MOMENTS & (one.reference or {}).keys() for one in questions.questions):
        raise UserError(f"{where}: the answers name moments of the whole videos; leave out start and end")


def question_text(question: Question, protocol: Protocol, media: str | None = None) -> str:
    """Returns the user turn of a question; ``media`` is the text that stands for its file, None: its stream's tag."""
    return protocol.question_text(
        question.question, media, question.type, question.fields, question.options, question.stream
    )


def prediction_of(
    question: Question,
    protocol: Protocol,
    pred: str,
    finish_reason: str | None = None,
    error: str | None = None,
) -> Prediction:
    """Returns the record of an answer to a question, without that to its second one."""
    worded = bool(protocol.templates or protocol.choices)
    return Prediction(
        id=question.id,
        question=question_text(question, protocol, media="").strip() if worded else question.question,
        answer=question.answer,
        pred=pred,
        index=question.index,
        video=question.video,
        file=question.file,
        type=question.type,
        finish_reason=finish_reason,
        error=error,
        judge_prompt=question.judge_prompt,
        judge_texts=dict(question.judge_texts) or None,
        further_answers=list(question.further_answers) or None,
    )
