"""The chat template of a tokenizer as a prompt format: its frames are found by rendering probe conversations."""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from vidtune.data.sample import Turn
from vidtune.errors import UserError
from vidtune.processing.prompts.format import AnswerFrame, Frame, PromptFormat

CHAT_TEMPLATE = "chat_template"
"""Name under which every system has the chat template of its tokenizer as a prompt format."""

_PROBE = ("Qa1z", "Ra1z", "Qa2z", "Ra2z", "Qa3z")
_SYSTEM = "Sa0z"
_CHECKED = (*_PROBE[:2], "Two\nlines, 3 < 4?", "No.\n\n- {yes}", "Thanks!")


class _NoFrames(Exception):
    """A template that is not a sequence of framed turns; says why."""


def template_format(tokenizer: PreTrainedTokenizerBase) -> PromptFormat:
    """Return the prompt format that writes what the chat template of a tokenizer writes, its system line included.

    An answer is supervised with the special token that follows it.

    Raises:
        UserError: there is no chat template, or it does more than to frame turns.
    """
    template = tokenizer.chat_template
    if not template:
        raise UserError(
            f"prompt format '{CHAT_TEMPLATE}': the tokenizer has no chat template; use a format of the system"
        )
    try:
        if "strftime_now" in str(template):
            raise _NoFrames("it writes the date of today, which would change prompts from day to day")
        found = _frames(tokenizer)
        _check(found, tokenizer)
    except Exception as error:  # a template is a program and may fail with anything
        raise UserError(
            f"prompt format '{CHAT_TEMPLATE}': the tokenizer's chat template cannot be written as frames of turns: "
            f"{' '.join(str(error).split()) or type(error).__name__}; use a prompt format of the system"
        ) from None
    return found


def _frames(tokenizer: PreTrainedTokenizerBase) -> PromptFormat:
    """The format, found from where the texts of a conversation stand in what the template writes."""
    first, before_answer, between, before_last = _around(_PROBE[:3], _rendered(tokenizer, _PROBE[:3], True))
    *_, after_question = _around(_PROBE[:1], _rendered(tokenizer, _PROBE[:1], False))
    *_, after_answer = _around(_PROBE[:2], _rendered(tokenizer, _PROBE[:2], False))
    user = between.removeprefix(after_answer)
    if before_answer != before_last or not before_answer.startswith(after_question):
        raise _NoFrames("an open answer begins otherwise than a finished one")
    if not (between.startswith(after_answer) and first.endswith(user)):
        raise _NoFrames("the first or the last turn is framed otherwise than the others")
    end = _end_of_answer(after_answer, tokenizer)
    opening, bos = first.removesuffix(user), tokenizer.bos_token
    begins = bool(bos) and opening.startswith(bos)
    answer = before_answer.removeprefix(after_question)
    return PromptFormat(
        name=CHAT_TEMPLATE,
        system=opening.removeprefix(bos) if begins else opening,
        user=Frame(user, after_question),
        assistant=AnswerFrame(answer, end=end, after=after_answer.removeprefix(end)),
        stop=(end.strip(),),
        bos="written" if begins else False,
        strips=_rendered(tokenizer, [f" {_PROBE[0]}\n"], True) == _rendered(tokenizer, _PROBE[:1], True),
        borders=tuple(start.strip() for start in (user, answer) if start.strip()),
        own_system=_own_system(tokenizer, bos if begins else "", user),
    )


def _own_system(tokenizer: PreTrainedTokenizerBase, bos: str | None, user: str) -> str | None:
    """What the template writes before the first user turn for a system turn; None: it has no place for one."""
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _PROBE[0]}]
    try:
        written = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception:  # a template is a program; many refuse a system turn
        return None
    start = written.partition(_PROBE[0])[0].removeprefix(bos or "")
    if start.count(_SYSTEM) != 1 or not start.endswith(user):
        return None  # such as one that writes it into the user turn
    return start.removesuffix(user).replace(_SYSTEM, "{system}")


def _around(texts: Sequence[str], rendered: str) -> list[str]:
    """What stands before, between and after the texts."""
    parts = re.split("|".join(texts), rendered)
    if re.findall("|".join(texts), rendered) != list(texts):
        raise _NoFrames("it leaves out, repeats or changes turns")
    return parts


def _end_of_answer(after: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text after an answer up to the end of its first special token."""
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    found = [(after.index(token), -len(token)) for token in special if token in after]
    if not found:
        raise _NoFrames("no special token ends an answer")
    begin, length = min(found)
    return after[: begin - length]


def _check(found: PromptFormat, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise if the format and the template write different texts."""
    start = str(tokenizer.bos_token) if found.bos else ""
    for number in range(1, len(_CHECKED) + 1):
        texts, is_open = _CHECKED[:number], number % 2 == 1
        turns = [Turn("user" if k % 2 == 0 else "assistant", text) for k, text in enumerate(texts)]
        written = start + "".join(piece.text for piece in found.render(turns, is_open))
        if written != _rendered(tokenizer, texts, is_open):
            raise _NoFrames(f"a conversation of {number} turns is written otherwise than its frames say")


def _rendered(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], open_answer: bool) -> str:
    messages = [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(texts)]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_answer))
