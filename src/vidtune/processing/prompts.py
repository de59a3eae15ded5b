"""Prompt formats: turns of a conversation -> prompt string, in pieces that are either supervised or not.

A format is a record of strings. The first three styles are those of haotian-liu/LLaVA (`llava/conversation.py`); the
last one writes chat templates of language models, such as ChatML:

``two``     ``{system} USER: question ASSISTANT: answer</s>USER: ...``: each role has its own separator
``single``  ``{system}###Human: question###Assistant: answer###``: the same separator after every turn
``plain``   ``<image>caption\\n``: no roles; the user turn is only its one media tag
``framed``  ``{system}<|im_start|>user\\nquestion<|im_end|>\\n<|im_start|>assistant\\nanswer<|im_end|>\\n``: every turn
            is the prefix of its role, the text and the suffix of its role
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Turn


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the prompt string. The joined pieces are the prompt."""

    text: str
    supervised: bool


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """How a conversation is written for the language model.

    Args:
        name: name of the format in its system.
        system: the line before the first turn, followed by the separator of user turns. Style ``framed``: the whole
            text before the first turn.
        user, assistant: role names, without the colon. Style ``framed``: the prefix of a turn.
        separators: text after a user turn, and text after an assistant turn. The latter is supervised.
        style: see the top of this file.
        stop: generation ends when the answer ends with one of these strings, or with the end token of the tokenizer.
        bos: whether the prompt begins with the beginning-of-sequence token of the tokenizer, if there is one.
        only_streams: streams whose media this format can contain; None means all.
        media_separator: text between the media tags and a question without tags.
        tags_to_front: streams whose tag at the end of a user turn is moved before the text of the turn, followed by
            `media_separator`.
        after_answer: style ``framed``: text after the separator of an assistant turn; not supervised.
        tag_separator: style ``plain``: text between the tag and the caption; not supervised.
        cut: pattern of the places at which a prompt that is too long may be cut; None: prompts are cut at any token.
            Style ``two``: a prompt of one question and its answer is cut before a match of this pattern; a prompt of
            several questions before a separator after an answer. Style ``framed``: the prompt ends after an answer, or
            before a match of this pattern in an answer.
    """

    name: str
    system: str
    user: str = "USER"
    assistant: str = "ASSISTANT"
    separators: tuple[str, str] = (" ", "</s>")
    style: Literal["two", "single", "plain", "framed"] = "two"
    stop: tuple[str, ...] = ("</s>",)
    bos: bool = True
    only_streams: tuple[str, ...] | None = None
    media_separator: str = "\n"
    tags_to_front: tuple[str, ...] = ()
    tag_separator: str = ""
    cut: str | None = None
    after_answer: str = ""

    def render(self, turns: Sequence[Turn], open_answer: bool = False) -> list[Piece]:
        """Write the turns as a prompt.

        The answers are supervised, each with the space before it and the separator after it. An assistant turn at the
        start is dropped, because the formats begin with the user. An empty turn is written as the role alone, without
        separator (style ``framed``: as any other turn); `ambiguity` reports it.

        Args:
            turns: user and assistant in alternation, user first.
            open_answer: end with the role of the assistant, so that the model continues. The last turn must then be a
                user turn.
        Raises:
            SampleProblem: turns do not alternate, or do not fit the style ``plain``.
        """
        turns = without_leading_answer(turns)
        for number, turn in enumerate(turns):
            if turn.role != ("user", "assistant")[number % 2]:
                raise SampleProblem("roles do not alternate", f"turn {number} is another {turn.role} turn")
        if not turns:
            raise SampleProblem("no user turn", "the conversation has no user turn")
        if open_answer and turns[-1].role == "assistant":
            raise SampleProblem("roles do not alternate", "a prompt with an open answer ends with a user turn")
        if self.style == "plain":
            return self._render_plain(turns, open_answer)
        if self.style == "framed":
            return self._render_framed(turns, open_answer)

        pieces = [Piece(self.system + self.separators[0], False)]
        for turn in turns:
            role, separator = (
                (self.user, self.separators[0]) if turn.role == "user" else (self.assistant, self.separators[1])
            )
            if not turn.text:
                pieces.append(Piece(f"{role}:", False))
            elif turn.role == "user":
                pieces.append(Piece(f"{role}: {self._arranged(turn.text)}{separator}", False))
            else:
                pieces += [Piece(f"{role}:", False), Piece(f" {turn.text}{separator}", True)]
        if open_answer:
            pieces.append(Piece(f"{self.assistant}:", False))
        return pieces

    def with_tags(self, text: str, streams: Sequence[str]) -> str:
        """Text of a user turn, the tags of its media put before it in this order."""
        return "".join(f"<{stream}>" for stream in streams) + self.media_separator + text

    def _render_framed(self, turns: Sequence[Turn], open_answer: bool) -> list[Piece]:
        pieces = [Piece(self.system, False)]
        for turn in turns:
            if turn.role == "user":
                pieces.append(Piece(self.user + self._arranged(turn.text) + self.separators[0], False))
            else:
                answer = Piece(turn.text + self.separators[1], True)
                pieces += [Piece(self.assistant, False), answer, Piece(self.after_answer, False)]
        if open_answer:
            pieces.append(Piece(self.assistant, False))
        return pieces

    def _arranged(self, text: str) -> str:
        """Text of a user turn with its media tag at the position that the format requires."""
        for stream in self.tags_to_front:
            rest = text.removesuffix(f"<{stream}>")
            if rest.strip() and rest != text:
                return f"<{stream}>{self.media_separator}{rest.strip()}"
        return text

    def _render_plain(self, turns: Sequence[Turn], open_answer: bool) -> list[Piece]:
        streams = self.only_streams or ("image",)
        tags = [f"<{stream}>" for stream in streams if f"<{stream}>" in turns[0].text]
        if len(turns) != 2 - open_answer or len(tags) != 1 or turns[0].text.count(tags[0]) != 1:
            expected = " or ".join(f"<{stream}>" for stream in streams)
            raise SampleProblem(
                "not for a plain prompt", f"the prompt format '{self.name}' takes one {expected} and one caption"
            )
        pieces = [Piece(tags[0] + self.tag_separator, False)]
        if not open_answer:
            pieces.append(Piece(turns[1].text + self.separators[1], True))
        return pieces

    def ambiguity(self, turns: Sequence[Turn]) -> str | None:
        """Reason why answers and questions cannot be told apart in the prompt string; None if they can.

        Published training code finds the answers by searching the string for role and separator, and masks the whole
        sample if their numbers do not match (`preprocess_v1` of haotian-liu/LLaVA). The same samples are masked here,
        and the reason is reported. In the style ``framed`` the positions of the answers are known, but the language
        model would take a prefix or suffix inside a turn for the border of a turn, so the reasons are the same.
        """
        if self.style == "plain":
            return None
        turns = without_leading_answer(turns)
        for turn in turns:
            if not turn.text:
                return "empty answer" if turn.role == "assistant" else "empty question"
            if any(end in turn.text for end in self._turn_ends()):
                return "separator in a turn"
        if turns and turns[-1].role == "user":
            return "last question has no answer"
        if self.style == "two":
            return self.ambiguity_of("".join(piece.text for piece in self.render(turns)), turns)
        if self.style == "framed":
            starts = [prefix.strip() for prefix in (self.user, self.assistant) if prefix.strip()]
            return "role text in a turn" if any(start in turn.text for turn in turns for start in starts) else None
        if any(f"{self.separators[0]}{role}:" in turn.text for turn in turns for role in (self.user, self.assistant)):
            return "role text in a turn"
        return None

    def _turn_ends(self) -> list[str]:
        """Strings that end a turn; the text of a turn must not contain them."""
        if self.style != "framed":
            return [self.separators[1]]
        return [end.strip() for end in self.separators if end.strip()]

    def ambiguity_of(self, prompt: str, turns: Sequence[Turn]) -> str | None:
        """Reason why answers and questions cannot be told apart in a prompt of `shortened`; None if they can.

        Args:
            prompt: the shortened prompt, which is checked in the style ``two``.
            turns: the conversation that was shortened, which is checked in the style ``framed``.
        """
        if self.style == "framed":
            return self.ambiguity(turns)
        answer_start = f"{self.separators[0]}{self.assistant}: "
        rounds = prompt.split(self.separators[1])[:-1]
        return "role text in a turn" if any(round_.count(answer_start) != 1 for round_ in rounds) else None

    def shortened(
        self, text: str, supervised: np.ndarray, turns: int, fits: Callable[[str], bool]
    ) -> tuple[str, np.ndarray]:
        """Remove as few of the last pieces of a prompt as needed until it fits; the first piece is always kept.

        Style ``two``: the kept pieces are joined by a space and followed by the separator after an answer, as in
        published code (`preprocess_v1` of github.com/huangb23/VTimeLLM); the space before a separator is then
        supervised. Style ``framed``: see `_shortened_framed`.

        Args:
            text: text of the whole prompt.
            supervised: (characters,) bool.
            turns: number of turns of the conversation, including an assistant turn at the start; two turns are one
                question.
            fits: whether a text is short enough; if a text does not fit, no longer text fits.
        Returns:
            The shorter text, and which of its characters are supervised; both unchanged if there is only one piece.
        """
        assert self.cut is not None
        if self.style == "framed":
            return self._shortened_framed(text, supervised, fits)
        separator = self.separators[1]
        pattern = self.cut if turns == 2 else re.escape(separator)
        begins = sorted({0, len(text), *(match.start() for match in re.finditer(pattern, text))})
        spans = [_stripped(text, *span) for span in pairwise(begins)]
        if len(spans) < 2:
            return text, supervised

        def without_last(number: int) -> str:
            return " ".join(text[begin:end] for begin, end in spans[:-number]) + separator

        dropped = bisect_right(range(1, len(spans) - 1), False, key=lambda number: fits(without_last(number))) + 1
        kept = spans[:-dropped]
        # A space is supervised if the next character is; the closing separator if the character before it is.
        flags = [flag for begin, end in kept for flag in (supervised[begin : begin + 1], supervised[begin:end])]
        closing = np.full(len(separator), supervised[kept[-1][1] - 1])
        return without_last(dropped), np.concatenate([*flags[1:], closing])

    def _shortened_framed(
        self, text: str, supervised: np.ndarray, fits: Callable[[str], bool]
    ) -> tuple[str, np.ndarray]:
        """The longest prompt of the style ``framed`` that fits, or the shortest possible one; see `shortened`.

        It ends after an answer, or inside an answer before a match of `cut`, without the white space before the match,
        and with the separator after an answer. The text before its end is not changed.
        """
        assert self.cut is not None
        separator = self.separators[1]
        borders = np.flatnonzero(np.diff(supervised.astype(np.int8), prepend=0, append=0))
        ends: list[int] = []  # ends of the text before the closing separator
        for begin, end in borders.reshape(-1, 2).tolist():
            answer = text[begin : end - len(separator)]
            kept = [len(answer[: match.start()].rstrip()) for match in re.finditer(self.cut, answer)]
            ends += [begin + length for length in (*kept, len(answer)) if length]
        if not ends:
            return text, supervised
        last = bisect_left(ends[1:], True, key=lambda end: not fits(text[:end] + separator))
        kept_flags = supervised[: ends[last]]
        return text[: ends[last]] + separator, np.concatenate([kept_flags, np.full(len(separator), True)])


def _stripped(text: str, begin: int, end: int) -> tuple[int, int]:
    """The span of a part of the text without the white space around it."""
    part = text[begin:end]
    stop = begin + len(part.rstrip())
    return min(end - len(part.lstrip()), stop), stop


def without_leading_answer(turns: Sequence[Turn]) -> Sequence[Turn]:
    """The turns, without the first one if it is an assistant turn."""
    return turns[1:] if turns and turns[0].role == "assistant" else turns
