"""Prompt formats: turns of a conversation -> prompt string, in pieces that are either supervised or not.

A format is data: a text before the conversation, the frame of a user turn and the frame of an assistant turn.

``Be kind. USER: question ASSISTANT: answer</s>``
    system "Be kind.", after_system " ", user ("USER: ", " "), assistant before "ASSISTANT:", lead " ", end "{eos}".
``<|im_start|>user\\nquestion<|im_end|>\\n<|im_start|>assistant\\nanswer<|im_end|>\\n``
    user ("<|im_start|>user\\n", "<|im_end|>\\n"), assistant before "<|im_start|>assistant\\n", end "<|im_end|>",
    after "\\n".
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from itertools import groupby
from string import Formatter
from typing import Any, Literal, cast

import numpy as np

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Turn
from vidtune.errors import UserError
from vidtune.processing.prompts.cutting import Cut

EOS = "{eos}"
"""Stands in the texts of a format for the end-of-sequence token of the tokenizer, such as ``</s>``."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the prompt string. The joined pieces are the prompt."""

    text: str
    supervised: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """Texts before and after a user turn; never supervised."""

    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class AnswerFrame:
    """Texts around an assistant turn, in the order ``before``, ``lead``, answer, ``end``, ``after``.

    Args:
        before: a prompt with an open answer ends with it.
        lead: text between ``before`` and the answer that the model itself writes, such as the space after a colon.
        end: what ends an answer.
        after: text between ``end`` and the next turn.
        supervised: which of these texts are supervised together with the answer.
    """

    before: str = ""
    lead: str = ""
    end: str = EOS
    after: str = ""
    supervised: tuple[Literal["before", "lead", "end", "after"], ...] = ("lead", "end")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the tag of a stream stands in a user turn that has none: ``"{question} Here it is: {tag}."``

    Args:
        stream: the tag is ``<stream>``.
        texts: ``{question}`` stands for the text of the turn, ``{tag}`` for the tag. Of several, the sample's id takes
            one.
    """

    stream: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """How a conversation is written for the language model. ``{eos}`` in its texts is the tokenizer's own end token.

    Args:
        name: name of the format in its system.
        system, after_system: the text before the first turn, in two parts.
        user, assistant: what stands around the turns.
        stop: generation ends when the answer ends with one of these texts, or with the end token of the tokenizer.
        bos: whether the prompt begins with what the tokenizer puts before a text, mostly its beginning-of-sequence
            token; "written": with that token, because the format writes it itself.
        special: texts of the format that must be single tokens of the tokenizer.
        only_streams: streams whose media this format can contain; None means all.
        question: a user turn whose media have no tags: ``{media}`` stands for the tags, ``{question}`` for the text.
        placements: streams whose tag stands elsewhere in such a turn, each with texts of its own.
        questions: texts for a user turn that has none beside its tags; the sample's id takes one of those whose tags
            are just those that the media still lack.
        moved: pattern of user turns whose media tag is moved. The group ``media`` of a turn that matches as a whole is
            taken out, and the turn is written as ``question`` says.
        only_tag: the format takes one turn of each role, and of the user turn only its one media tag is written.
        strips: whether turns are written without the white space around them.
        bare_when_empty: whether an empty turn is written as the text before it alone, without white space at its end.
        answer_mark: text by which published training code finds the answers in the whole prompt, see `ambiguity`; None:
            their positions are known.
        borders: texts that the language model would take for the border of a turn; no turn may contain them.
        also_supervised: texts that are supervised wherever they stand as one token.
        cut: where a prompt that is too long may be cut; None: at any token.
        layouts: whether texts of layouts are written; False: the tokens of media stand without them.
        left_out: texts that are taken out of every turn, after media tags are moved.
        own_system: what is written in the place of ``system`` for a conversation that has a system turn; ``{system}``
            stands for its text. None: the format has no place for one. Empty: it is left out.
    """

    name: str
    system: str = ""
    after_system: str = ""
    user: Frame = Frame()
    assistant: AnswerFrame = AnswerFrame()
    stop: tuple[str, ...] = (EOS,)
    bos: bool | Literal["written"] = True
    special: tuple[str, ...] = ()
    only_streams: tuple[str, ...] | None = None
    question: str = "{media}\n{question}"
    placements: tuple[Placement, ...] = ()
    questions: tuple[str, ...] = ()
    moved: str | None = None
    only_tag: bool = False
    strips: bool = False
    bare_when_empty: bool = False
    answer_mark: str | None = None
    borders: tuple[str, ...] = ()
    also_supervised: tuple[str, ...] = ()
    cut: Cut | None = None
    layouts: bool = True
    left_out: tuple[str, ...] = ()
    own_system: str | None = field(default="{system}", repr=False)  # cached lengths are known by the repr

    def __post_init__(self) -> None:
        if sorted(_plain_fields(self.question)) != ["media", "question"]:
            raise ValueError(
                f"prompt format '{self.name}': question {self.question!r} must hold {{media}} and {{question}} once"
            )
        for placement in self.placements:
            wrong = next((text for text in placement.texts if sorted(_plain_fields(text)) != ["question", "tag"]), None)
            if wrong is not None or not placement.texts:
                raise ValueError(
                    f"prompt format '{self.name}': placement of <{placement.stream}>: {wrong!r} must hold {{question}} "
                    "and {tag} once"
                )
        if self.moved is not None and not _has_media_group(self.moved):
            raise ValueError(
                f"prompt format '{self.name}': moved {self.moved!r} must be a regular expression with a group 'media'"
            )
        if self.answer_mark is not None and not (self.answer_mark and self.assistant.end):
            raise ValueError(f"prompt format '{self.name}': answer_mark needs a text, and an end of the answer")
        if unknown := [part for part in self.assistant.supervised if part not in ("before", "lead", "end", "after")]:
            raise ValueError(
                f"prompt format '{self.name}': supervised {unknown[0]!r} is no part of an answer; "
                "known: before, lead, end, after"
            )
        if self.cut and not self.cut.rejoined and self.assistant.supervised != ("lead", "end"):
            raise ValueError(f"prompt format '{self.name}': cut needs answers of which lead and end are supervised")

    def render(self, turns: Sequence[Turn], open_answer: bool = False) -> list[Piece]:
        """Write the turns as a prompt.

        An assistant turn at the start is dropped, because the formats begin with the user.

        Args:
            turns: user and assistant in alternation, user first; before them at most one system turn.
            open_answer: end with the text before an answer, so that the model continues. The last turn must then be a
                user turn.
        Raises:
            SampleProblem: turns do not alternate, or do not fit a format of ``only_tag``; a system turn for which the
                format has no place.
        """
        opening = self._opening(turns)
        turns = self._turns(turns)
        for number, turn in enumerate(turns):
            if turn.role != ("user", "assistant")[number % 2]:
                raise SampleProblem("roles do not alternate", f"turn {number} is another {turn.role} turn")
        if not turns:
            raise SampleProblem("no user turn", "the conversation has no user turn")
        if open_answer and turns[-1].role == "assistant":
            raise SampleProblem("roles do not alternate", "a prompt with an open answer ends with a user turn")
        if self.only_tag:
            turns = [Turn("user", self._single_tag(turns, open_answer)), *turns[1:]]
        pieces = [Piece(opening, False)]
        for turn in turns:
            pieces += self._user_turn(turn.text) if turn.role == "user" else self._answer(turn.text)
        if open_answer:
            pieces.append(Piece(self.assistant.before, False))
        filled = groupby((piece for piece in pieces if piece.text), key=lambda piece: piece.supervised)
        return [Piece("".join(piece.text for piece in run), supervised) for supervised, run in filled]

    def _opening(self, turns: Sequence[Turn]) -> str:
        """The text before the first turn, in which a system turn takes the place of the system line."""
        if not turns or turns[0].role != "system":
            return self.system + self.after_system
        if self.own_system is None:
            raise SampleProblem(
                "no place for a system turn",
                f"the prompt format '{self.name}' has no place for the system turn of the conversation",
            )
        if not self.own_system:
            return self.system + self.after_system
        text = turns[0].text.strip() if self.strips else turns[0].text
        return self.own_system.replace("{system}", self._without(text)) + self.after_system

    def with_tags(self, text: str, streams: Sequence[str]) -> str:
        """Text of a user turn with the tags of its media, in this order, where the format puts them."""
        return self._with_media(text, "".join(f"<{stream}>" for stream in streams))

    def _with_media(self, text: str, media: str) -> str:
        return self.question.format(media=media, question=text)

    def _turns(self, turns: Sequence[Turn]) -> Sequence[Turn]:
        """The turns as they are written: without a system turn and an assistant turn at the start, stripped if the
        format does that."""
        if turns and turns[0].role == "system":
            turns = turns[1:]
        if turns and turns[0].role == "assistant":
            turns = turns[1:]
        return [replace(turn, text=turn.text.strip()) for turn in turns] if self.strips else turns

    def _user_turn(self, text: str) -> list[Piece]:
        if not text and self.bare_when_empty:
            return [Piece(self.user.before.rstrip(), False)]
        if self.moved is not None and (found := re.fullmatch(self.moved, text)):
            begin, end = found.span("media")
            text = self._with_media((text[:begin] + text[end:]).strip(), found["media"])
        return [Piece(self.user.before + self._without(text) + self.user.after, False)]

    def _answer(self, text: str) -> list[Piece]:
        frame = self.assistant
        if not text and self.bare_when_empty:
            return [Piece(frame.before.rstrip(), False)]

        def piece(part: str) -> Piece:
            return Piece(getattr(frame, part), part in frame.supervised)

        return [piece("before"), piece("lead"), Piece(self._without(text), True), piece("end"), piece("after")]

    def _without(self, text: str) -> str:
        for part in self.left_out:
            text = text.replace(part, "")
        return text

    def _single_tag(self, turns: Sequence[Turn], open_answer: bool) -> str:
        streams = self.only_streams or ("image",)
        tags = [f"<{stream}>" for stream in streams if f"<{stream}>" in turns[0].text]
        if len(turns) != 2 - open_answer or len(tags) != 1 or turns[0].text.count(tags[0]) != 1:
            expected = " or ".join(f"<{stream}>" for stream in streams)
            raise SampleProblem(
                "not for a plain prompt", f"the prompt format '{self.name}' takes one {expected} and one caption"
            )
        return tags[0]

    def ambiguity(self, turns: Sequence[Turn]) -> str | None:
        """Reason why answers and questions cannot be told apart in the prompt string; None if they can.

        Published training code finds the answers by searching the string for role and separator, and masks the whole
        sample if their numbers do not match (`preprocess_v1` of haotian-liu/LLaVA). The same samples are masked here,
        and the reason is reported. In a format without ``answer_mark`` the positions of the answers are known, but the
        language model would take a text of the frames inside a turn for the border of a turn, so the reasons are the
        same.
        """
        if self.only_tag:
            return None
        turns = self._turns(turns)
        ends = [end.strip() for end in (self.user.after, self.assistant.end) if end.strip()]
        for turn in turns:
            if not turn.text:
                return "empty answer" if turn.role == "assistant" else "empty question"
            if any(end in turn.text for end in ends):
                return "separator in a turn"
        if turns and turns[-1].role == "user":
            return "last question has no answer"
        if self.answer_mark is not None:
            return self.ambiguity_of("".join(piece.text for piece in self.render(turns)), turns)
        return "role text in a turn" if any(border in turn.text for turn in turns for border in self.borders) else None

    def ambiguity_of(self, prompt: str, turns: Sequence[Turn]) -> str | None:
        """Reason why answers and questions cannot be told apart in a prompt of `shortened`; None if they can.

        Args:
            prompt: the shortened prompt, which is checked if there is an ``answer_mark``: every text up to the end of
                an answer must contain it once.
            turns: the conversation that was shortened, which is checked otherwise.
        """
        if self.answer_mark is None:
            return self.ambiguity(turns)
        rounds = prompt.split(self.assistant.end)[:-1]
        return "role text in a turn" if any(part.count(self.answer_mark) != 1 for part in rounds) else None

    def shortened(
        self, text: str, supervised: np.ndarray, turns: int, fits: Callable[[str], bool]
    ) -> tuple[str, np.ndarray]:
        """A shorter prompt, and which of its characters are supervised; see `Cut.shortened`."""
        assert self.cut is not None
        return self.cut.shortened(text, supervised, self.assistant.end, turns, fits)

    def with_eos(self, eos: str | None, tokenizer: str = "") -> "PromptFormat":
        """The format with the end token of a tokenizer in the place of ``{eos}``.

        Args:
            eos: the end token; None: it has none.
            tokenizer: folder or name of the tokenizer, for the message.

        Raises:
            UserError: the format needs an end token and the tokenizer has none.
        """
        if eos:
            return cast(PromptFormat, _filled(self, eos))
        if EOS not in repr(self):
            return self
        named = f"the tokenizer {tokenizer}".rstrip()
        raise UserError(
            f"prompt format '{self.name}' ends answers with the tokenizer's end token, but {named} has none; set "
            "eos_token in its tokenizer_config.json, or use another prompt format"
        )


def _plain_fields(text: str) -> list[str]:
    """Fields of a text, those with a conversion or a format as they are written; [] if it cannot be filled in."""
    try:
        parts = [(field, f":{spec}" * bool(spec), conversion) for _, field, spec, conversion in Formatter().parse(text)]
    except (ValueError, TypeError):
        return []
    return [f"{field}{spec}{conversion or ''}" for field, spec, conversion in parts if field is not None]


def _has_media_group(pattern: str) -> bool:
    try:
        return "media" in re.compile(pattern).groupindex
    except (re.error, TypeError):
        return False


def _filled(value: Any, eos: str) -> Any:
    """A format, or a part of one, with the end token in all of its texts."""
    if isinstance(value, str):
        return value.replace(EOS, eos)
    if isinstance(value, tuple):
        return tuple(_filled(part, eos) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _filled(getattr(value, field.name), eos) for field in fields(value)})
    return value
