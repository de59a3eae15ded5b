"""The published prompts by name, and which one an item is judged by."""

from vidtune.evaluation.judges.aspects import ASPECTS
from vidtune.evaluation.judges.base import JudgeItem
from vidtune.evaluation.judges.prompts import VIDEO_QA, JudgePrompt

PROMPTS = {prompt.name: prompt for prompt in (VIDEO_QA, *ASPECTS)}


def prompt_of(item: JudgeItem, default: JudgePrompt = VIDEO_QA) -> JudgePrompt:
    """The prompt by which a chat model judges an item.

    Args:
        default: for an item that names none.
    """
    return default if item.prompt is None else PROMPTS[item.prompt]
