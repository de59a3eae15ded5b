"""Prompts that ask a chat model for points alone: five aspects of an answer about a video.

Maaz et al., Video-ChatGPT, ACL 2024, arXiv:2306.05424; github.com/mbzuai-oryx/Video-ChatGPT, quantitative_evaluation.
The words are those of the published scripts, mistakes included: an integer is asked for and 4.8 is shown, in a form
that is no Python literal.
"""

from vidtune.evaluation.judges.prompts import JudgePrompt
from vidtune.evaluation.judges.replies import SCORE_ALONE

CORRECTNESS, DETAIL, CONTEXT, TEMPORAL = "correctness", "detail", "context", "temporal"
CONSISTENCY, FIRST_TWICE = "consistency", "consistency-first-twice"

_OUTPUTS = "outputs for video-based question-answer pairs. "
_COMPARE = "Your task is to compare the predicted answer with the correct answer and "
_HERE = "Here's how you can accomplish the task:------##INSTRUCTIONS: "
_SYNONYMS = "- Consider synonyms or paraphrases as valid matches"
_ONE = "Question: {question}\nCorrect Answer: {answer}\nPredicted Answer: {pred}"
_TWO = (
    "Question 1: {question1}\nQuestion 2: {question2}\nCorrect Answer: {answer}\n"
    "Predicted Answer to Question 1: {pred1}\nPredicted Answer to Question 2: {pred2}"
)


def _system(judged: str, task: str, *instructions: str, outputs: str = _OUTPUTS, compare: str = _COMPARE) -> str:
    return (
        f"You are an intelligent chatbot designed for evaluating the {judged} of generative {outputs}{compare}{task} "
        + _HERE
        + "\n".join(instructions)
    )


def _user(score: str, highest: str, its: str = "the ", texts: str = _ONE) -> str:
    """Args: its: what stands before the name of the score where the reply is described."""
    return (
        f"Please evaluate the following video-based question-answer pair:\n\n{texts}\n\n"
        f"Provide your evaluation only as a {score} score where the {score} score is an integer value between 0 and 5, "
        f"with 5 indicating the highest level of {highest}. "
        "Please generate the response in the form of a Python dictionary string with keys 'score', "
        f"where its value is {its}{score} score in INTEGER, not STRING."
        "DO NOT PROVIDE ANY OTHER OUTPUT TEXT OR EXPLANATION. Only provide the Python dictionary string. "
        "For example, your response should look like this: {''score': 4.8}."
    )


_CONSISTENCY_SYSTEM = _system(
    "consistency",
    "determine if they are consistent.",
    "- Focus on the consistency between the two predicted answers and the correct answer. Both predicted answers "
    "should correspond to the correct answer and to each other, and should not contain any contradictions or "
    "significant differences in the conveyed information.",
    "- Both predicted answers must be consistent with each other and the correct answer, in terms of the information "
    "they provide about the video content.",
    f"{_SYNONYMS}, but only if they maintain the consistency in the conveyed information.",
    "- Evaluate the consistency of the two predicted answers compared to the correct answer.",
    outputs="outputs for similar video-based question-answer pairs. ",
    compare="You will be given two very similar questions, a common answer common to both the questions and predicted "
    "answers for the two questions .Your task is to compare the predicted answers for two very similar question, with "
    "a common correct answer and ",
)

CORRECTNESS_PROMPT = JudgePrompt(
    name=CORRECTNESS,
    system=_system(
        "factual accuracy",
        "determine if they are factually consistent.",
        "- Focus on the factual consistency between the predicted answer and the correct answer. The predicted "
        "answer should not contain any misinterpretations or misinformation.",
        "- The predicted answer must be factually accurate and align with the video content.",
        f"{_SYNONYMS}.",
        "- Evaluate the factual accuracy of the prediction compared to the answer.",
    ),
    user=_user("factual accuracy", "factual consistency"),
    form=SCORE_ALONE,
)
DETAIL_PROMPT = JudgePrompt(
    name=DETAIL,
    system=_system(
        "detail orientation",
        "determine its level of detail, considering both completeness and specificity.",
        "- Check if the predicted answer covers all major points from the video. The response should not leave out "
        "any key aspects.",
        "- Evaluate whether the predicted answer includes specific details rather than just generic points. It "
        "should provide comprehensive information that is tied to specific elements of the video.",
        f"{_SYNONYMS}.",
        "- Provide a single evaluation score that reflects the level of detail orientation of the prediction, "
        "considering both completeness and specificity.",
    ),
    user=_user("detail orientation", "detail orientation"),
    form=SCORE_ALONE,
)
CONTEXT_PROMPT = JudgePrompt(
    name=CONTEXT,
    system=_system(
        "contextual understanding",
        "determine if the generated response aligns with the overall context of the video content.",
        "- Evaluate whether the predicted answer aligns with the overall context of the video content. It should "
        "not provide information that is out of context or misaligned.",
        "- The predicted answer must capture the main themes and sentiments of the video.",
        f"{_SYNONYMS}.",
        "- Provide your evaluation of the contextual understanding of the prediction compared to the answer.",
    ),
    user=_user("contextual understanding", "contextual understanding", its=""),
    form=SCORE_ALONE,
)
TEMPORAL_PROMPT = JudgePrompt(
    name=TEMPORAL,
    system=_system(
        "temporal understanding",
        "determine if they correctly reflect the temporal sequence of events in the video content.",
        "- Focus on the temporal consistency between the predicted answer and the correct answer. The predicted "
        "answer should correctly reflect the sequence of events or details as they are presented in the video "
        "content.",
        f"{_SYNONYMS}, but only if the temporal order is maintained.",
        "- Evaluate the temporal accuracy of the prediction compared to the answer.",
    ),
    user=_user("temporal accuracy", "temporal consistency"),
    form=SCORE_ALONE,
)
CONSISTENCY_PROMPT = JudgePrompt(
    name=CONSISTENCY,
    system=_CONSISTENCY_SYSTEM,
    user=_user("consistency", "consistency", texts=_TWO),
    form=SCORE_ALONE,
)
# Several published scripts show the first question in both places.
FIRST_TWICE_PROMPT = JudgePrompt(
    name=FIRST_TWICE,
    system=_CONSISTENCY_SYSTEM,
    user=_user("consistency", "consistency", texts=_TWO.replace("{question2}", "{question1}")),
    form=SCORE_ALONE,
)
