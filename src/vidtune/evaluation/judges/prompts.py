"""Prompts of chat models as judges. Published scores depend on the exact words, mistakes included."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.judges.base import JudgeItem
from vidtune.evaluation.judges.replies import YES_AND_SCORE, ReplyForm
from vidtune.registry import JUDGE_PROMPTS

CHARACTERS_PER_TOKEN = 4
OR = " or "
"""Stands between reference answers of which each is right; published prompts have one place for them."""
FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class JudgePrompt:
    """A system message, a user message with fields, and the form of the reply.

    Args:
        system: empty: no such message is sent.
        user: its fields are ``{question}``, ``{answer}``, ``{pred}``, and those of `JudgeItem.texts`; where two answers
            are judged together also ``{question1}``, ``{pred1}``, ``{question2}`` and ``{pred2}``.
        form: how replies are read, and their scale.
        parameters: sampling parameters to send, as published; those of the judge replace them.
        insisting: what is added to the user message after a reply that cannot be read.
        retries: parameters that change in the request after each such reply; so many requests follow the first. Empty:
            the same request is sent again.
        reply_tokens: number of tokens that a reply is expected to have, to say what judging will take.
        offline: judgement of an item by rules, in the place of a chat model; None: yes or no, and 0 to 5.
    """

    name: str
    system: str
    user: str
    form: ReplyForm = YES_AND_SCORE
    parameters: Mapping[str, Any] = field(default_factory=dict)
    insisting: str = ""
    retries: tuple[Mapping[str, Any], ...] = ()
    reply_tokens: int = 20
    offline: Callable[[JudgeItem], Any] | None = None

    def messages(self, item: JudgeItem, unread: int = 0) -> list[dict[str, str]]:
        """Returns the chat to send; braces in the texts of the item stay as they are.

        Args:
            unread: number of replies to the item before that could not be read.

        Raises:
            UserError: the prompt has a field that the item has no text for.
        """
        values = {"question": item.question, "answer": OR.join(item.answers), "pred": item.pred, **item.texts}
        if item.second is not None:
            values |= {"question1": item.question, "pred1": item.pred}
            values |= {"question2": item.second[0], "pred2": item.second[1]}
        unknown = [name for name in FIELD.findall(self.user) if name not in values]
        if unknown:
            raise UserError(
                f"judge prompt {self.name!r}: {item.id!r} has no text for {{{unknown[0]}}}; it has {', '.join(values)}"
            )
        user = FIELD.sub(lambda field: values[field[1]], self.user) + (self.insisting if unread else "")
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": user}]

    def expected_tokens(self, item: JudgeItem, unread: int = 0) -> tuple[int, int]:
        """Returns about how many prompt and completion tokens a request takes; ``unread`` as for :meth:`messages`."""
        characters = sum(len(message["content"]) for message in self.messages(item, unread))
        return characters // CHARACTERS_PER_TOKEN, self.reply_tokens

    def parameters_after(self, unread: int) -> dict[str, Any]:
        """Returns the parameters of a request; ``unread`` as for :meth:`messages`."""
        changes = self.retries[min(unread, len(self.retries)) - 1] if unread and self.retries else {}
        return {**self.parameters, **changes}

    def gives_up(self, unread: int) -> bool:
        """Whether no further request follows after so many replies that cannot be read."""
        return bool(self.retries) and unread > len(self.retries)


def prompt_of(item: JudgeItem, default: JudgePrompt) -> JudgePrompt:
    """Returns the prompt by which a chat model judges an item.

    Args:
        default: for an item that names none.

    Raises:
        UserError: the item names a prompt that is not registered.
    """
    return default if item.prompt is None else JUDGE_PROMPTS[item.prompt]


VIDEO_QA = JudgePrompt(
    name="video-qa",
    system=(
        "You are an intelligent chatbot designed for evaluating the correctness of generative outputs "
        "for question-answer pairs. "
        "Your task is to compare the predicted answer with the correct answer "
        "and determine if they match meaningfully. "
        "Here's how you can accomplish the task:"
        "------"
        "##INSTRUCTIONS: "
        "- Focus on the meaningful match between the predicted answer and the correct answer.\n"
        "- Consider synonyms or paraphrases as valid matches.\n"
        "- Evaluate the correctness of the prediction compared to the answer."
    ),
    user=(
        "Please evaluate the following video-based question-answer pair:\n\n"
        "Question: {question}\n"
        "Correct Answer: {answer}\n"
        "Predicted Answer: {pred}\n\n"
        "Provide your evaluation only as a yes/no and score where the score is an integer value between 0 and 5, "
        "with 5 indicating the highest meaningful match. "
        "Please generate the response in the form of a Python dictionary string with keys 'pred' and 'score', "
        "where value of 'pred' is  a string of 'yes' or 'no' and value of 'score' is in INTEGER, not STRING."
        "DO NOT PROVIDE ANY OTHER OUTPUT TEXT OR EXPLANATION. Only provide the Python dictionary string. "
        "For example, your response should look like this: {'pred': 'yes', 'score': 4.8}."
    ),
)
