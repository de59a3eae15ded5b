"""Prompts of chat models as judges. Published scores depend on the exact words, mistakes included."""

import re
from dataclasses import dataclass

from vidtune.errors import UserError
from vidtune.evaluation.judges.base import JudgeItem
from vidtune.registry import JUDGE_PROMPTS

FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class JudgePrompt:
    """A system message, and a user message with fields.

    Args:
        user: its fields are ``{question}``, ``{answer}`` and ``{pred}``; where two answers are judged together also
            ``{question1}``, ``{pred1}``, ``{question2}`` and ``{pred2}``.
        yes_or_no: a reply says yes or no besides its points.
    """

    name: str
    system: str
    user: str
    yes_or_no: bool = True

    def messages(self, item: JudgeItem) -> list[dict[str, str]]:
        """Returns the chat to send; braces in the texts of the item stay as they are.

        Raises:
            UserError: the prompt has a field that the item has no text for.
        """
        values = {"question": item.question, "answer": item.answer, "pred": item.pred}
        if item.second is not None:
            values |= {"question1": item.question, "pred1": item.pred}
            values |= {"question2": item.second[0], "pred2": item.second[1]}
        unknown = [name for name in FIELD.findall(self.user) if name not in values]
        if unknown:
            raise UserError(
                f"judge prompt {self.name!r}: {item.id!r} has no text for {{{unknown[0]}}}; it has {', '.join(values)}"
            )
        user = FIELD.sub(lambda field: values[field[1]], self.user)
        return [{"role": "system", "content": self.system}, {"role": "user", "content": user}]


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
