"""Prompt formats that many systems share: roles with a colon, chat templates of language models, captions."""

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from vidtune.processing.prompts.format import EOS, AnswerFrame, Frame, PromptFormat

_FIELD = re.compile(r"\{\w+\}|<\w+>")


def written_texts(prompts: Collection[PromptFormat]) -> tuple[list[str], list[str]]:
    """Returns what formats write around questions and answers, and their special tokens: what a tokenizer that is
    trained for them has to know. Tags of media and fields are left out."""
    special = sorted({text for prompt in prompts for text in prompt.special})
    # A format without roles counts as one with the usual roles: another text would make another tokenizer.
    roles = [(prompt.user.before or "USER: ", prompt.assistant.before or "ASSISTANT:") for prompt in prompts]
    texts = sorted({f"{prompt.system} {user}{answer}" for prompt, (user, answer) in zip(prompts, roles, strict=True)})
    # What a format writes around the question, without the tags of media.
    placed = {text for prompt in prompts for placement in prompt.placements for text in placement.texts}
    asked = {text for prompt in prompts for text in prompt.questions}
    return texts + sorted({_FIELD.sub("", text) for text in placed | asked}), special


def with_roles(
    name: str,
    system: str,
    user: str = "USER",
    assistant: str = "ASSISTANT",
    separators: tuple[str, str] = (" ", EOS),
    **changes: Any,
) -> PromptFormat:
    """Roles with a colon: ``{system} USER: question ASSISTANT: answer</s>USER: ...``

    Published training code finds the answers by the text between question and answer. With one separator for both
    roles, as in ``{system}###Human: question###Assistant: answer###``, it does not.

    Source: github.com/haotian-liu/LLaVA, `llava/conversation.py`, separator styles TWO and SINGLE.

    Args:
        separators: text after a user turn (and after the system line), and text after an answer; the latter is
            supervised and ends generation.
        changes: other fields of the format.
    """
    after_user, end = separators
    found = PromptFormat(
        name=name,
        system=system,
        after_system=after_user,
        user=Frame(f"{user}: ", after_user),
        assistant=AnswerFrame(f"{assistant}:", " ", end),
        stop=(end,),
        bare_when_empty=True,
        answer_mark=f"{after_user}{assistant}: " if after_user != end else None,
    )
    return replace(found, **changes)


def captions(name: str, only_streams: tuple[str, ...], after_tag: str = "", end: str = "\n") -> PromptFormat:
    """No roles: the one media tag of the user turn and a caption, ``<image>caption\\n``.

    Source: github.com/haotian-liu/LLaVA, separator style PLAIN.
    """
    return PromptFormat(
        name=name,
        user=Frame(after=after_tag),
        assistant=AnswerFrame(end=end),
        stop=(end,),
        only_streams=only_streams,
        only_tag=True,
        own_system="",
    )


def chatml(name: str, system: str | None = None, **changes: Any) -> PromptFormat:
    """ChatML of Qwen2: ``<|im_start|>user\\nquestion<|im_end|>\\n<|im_start|>assistant\\nanswer<|im_end|>\\n``

    Args:
        system: the system line; None: there is no system turn.
        changes: other fields of the format.
    """
    user, assistant = "<|im_start|>user\n", "<|im_start|>assistant\n"
    found = PromptFormat(
        name=name,
        system="" if system is None else f"<|im_start|>system\n{system}<|im_end|>\n",
        user=Frame(user, "<|im_end|>\n"),
        assistant=AnswerFrame(assistant, end="<|im_end|>", after="\n"),
        stop=("<|im_end|>",),
        bos=False,
        special=("<|im_start|>", "<|im_end|>"),
        own_system="<|im_start|>system\n{system}<|im_end|>\n",
        borders=(user.strip(), assistant.strip()),
    )
    return replace(found, **changes)


def llama3(name: str, system: str | None = None, **changes: Any) -> PromptFormat:
    """The format of Llama-3 Instruct; turns are written without the white space around them.

    Args:
        system: the system line; None: there is no system turn.
        changes: other fields of the format.
    """

    def header(role: str) -> str:
        return f"<|start_header_id|>{role}<|end_header_id|>\n\n"

    found = PromptFormat(
        name=name,
        system="" if system is None else f"{header('system')}{system}<|eot_id|>",
        user=Frame(header("user"), "<|eot_id|>"),
        assistant=AnswerFrame(header("assistant"), end="<|eot_id|>"),
        stop=("<|eot_id|>",),
        special=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        strips=True,
        borders=("<|start_header_id|>",),
        own_system=f"{header('system')}{{system}}<|eot_id|>",
    )
    return replace(found, **changes)
