"""An answer as a Python user gets it: a text that also tells how it ended and which moments it names."""

from vidtune.generation.settings import Answer, FinishReason
from vidtune.processing.times import spans_in_text, with_seconds


class Reply(str):
    """Text of an answer: a ``str`` that also tells how the answer ended.

    Attributes:
        question: what was asked.
        finish_reason: ``"eos"``, ``"stop"`` or ``"length"``.
        duration: seconds of the video, where the system writes moments and the duration is known; else None.
        spans: time spans that the answer names, as (start, end) in seconds.
        untrained: which number of frames the videos had in the place of those that the model was trained with, such as
            ``"16 frames where the model was trained with 8"``; empty: they had one of these.
    """

    question: str
    finish_reason: FinishReason
    duration: float | None
    spans: tuple[tuple[float, float], ...]
    untrained: str
    _rule: str | None

    def __new__(cls, answer: Answer, question: str, duration: float | None = None, rule: str | None = None) -> "Reply":
        reply = super().__new__(cls, answer.text)
        reply.question, reply.finish_reason, reply.duration = question, answer.finish_reason, duration
        reply.untrained = answer.untrained
        timed = duration is not None and rule is not None
        reply._rule = rule
        reply.spans = tuple(spans_in_text(answer.text, duration, rule)) if timed else ()  # type: ignore[arg-type]
        return reply

    def with_seconds(self) -> str:
        """The text with the seconds behind every time span in it."""
        if not self.duration or self._rule is None:
            return str(self)
        return with_seconds(str(self), self.duration, self._rule)
