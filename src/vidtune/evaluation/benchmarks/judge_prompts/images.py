"""Prompts by which a chat model judges open answers about pictures.

- Pair review: Liu et al., Visual Instruction Tuning, arXiv:2304.08485; github.com/haotian-liu/LLaVA, llava/eval. The
  model's answer and a reference answer get a score from 1 to 10 each, by somebody who reads a description of the
  picture.
- Correctness: Yu et al., MM-Vet, arXiv:2308.02490; github.com/yuweihao/MM-Vet. One number from 0 to 1, by examples. A
  judge that does not begin with it is asked again, at rising temperatures.
"""

from vidtune.evaluation.judges.base import JudgeItem
from vidtune.evaluation.judges.prompts import JudgePrompt
from vidtune.evaluation.judges.replies import leading_number, pair_of_scores
from vidtune.evaluation.judges.rules import judge_answer

PAIR_REVIEW, CORRECTNESS_OF_PARTS = "pair-review", "correctness-of-parts"
CONTEXT, ELEMENTS = "context", "elements"
"""Names of the further texts: the description of the picture, the reference with its marks set apart."""
ALL, ANY = "<AND>", "<OR>"
"""Marks between the parts of a reference: all of them are asked for, or any."""
LOWEST_OF_PAIR, HIGHEST_OF_PAIR = 1, 10

_REVIEW = (
    "We would like to request your feedback on the performance of two AI assistants in response to the user question "
    "displayed above. The user asks the question on observing an image. For your reference, the visual content in the "
    "image is represented with a few sentences describing the image. \n"
    "Please rate the helpfulness, relevance, accuracy, level of details of their responses. Each assistant receives an "
    "overall score on a scale of 1 to 10, where a higher score indicates better overall performance.\n"
    "Please first output a single line containing only two values indicating the scores for Assistant 1 and 2, "
    "respectively. The two scores are separated by a space.\n"
    "In the subsequent line, please provide a comprehensive explanation of your evaluation, avoiding any potential "
    "bias and ensuring that the order in which the responses were presented does not affect your judgment."
)
_MEME = (
    "Can you explain this meme? | This meme is poking fun at the fact that the names of the countries Iceland and "
    "Greenland are misleading. Despite its name, Iceland is known for its beautiful green landscapes, while Greenland "
    "is mostly covered in ice and snow. The meme is saying that the person has trust issues because the names of these "
    "countries do not accurately represent their landscapes."
)
_CORRECTNESS = (
    "Compare the ground truth and prediction from AI models, to give a correctness score for the prediction. <AND> in "
    "the ground truth means it is totally right only when all elements in the ground truth are present in the "
    "prediction, and <OR> means it is totally right when any one element in the ground truth is present in the "
    "prediction. The correctness score is 0.0 (totally wrong), 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, or 1.0 "
    "(totally right). Just complete the last space of the correctness score.\n\n"
    "Question | Ground truth | Prediction | Correctness\n--- | --- | --- | ---\n"
    "What is x in the equation? | -1 <AND> -5 | x = 3 | 0.0\n"
    "What is x in the equation? | -1 <AND> -5 | x = -1 | 0.5\n"
    "What is x in the equation? | -1 <AND> -5 | x = -5 | 0.5\n"
    "What is x in the equation? | -1 <AND> -5 | x = -5 or 5 | 0.5\n"
    "What is x in the equation? | -1 <AND> -5 | x = -1 or x = -5 | 1.0\n"
    f"{_MEME} | The meme talks about Iceland and Greenland. It's pointing out that despite their names, Iceland is not "
    "very icy and Greenland isn't very green. | 0.4\n"
    f"{_MEME} | The meme is using humor to point out the misleading nature of Iceland's and Greenland's names. "
    "Iceland, despite its name, has lush green landscapes while Greenland is mostly covered in ice and snow. The text "
    "'This is why I have trust issues' is a playful way to suggest that these contradictions can lead to distrust or "
    "confusion. The humor in this meme is derived from the unexpected contrast between the names of the countries and "
    "their actual physical characteristics. | 1.0\n\n"
)


def set_apart(reference: str) -> str:
    """A reference as the prompt shows it: with a blank on both sides of each mark."""
    return reference.replace(ALL, f" {ALL} ").replace(ANY, f" {ANY} ")


def _review_offline(item: JudgeItem) -> list[int]:
    """The reference answer gets all points, the model's so many as the rules give it on that scale."""
    _, score = judge_answer(item.answer, item.pred)
    return [HIGHEST_OF_PAIR, max(LOWEST_OF_PAIR, 2 * score)]


def _parts_offline(item: JudgeItem) -> dict[str, float]:
    """The share of the parts of the reference that are right; of alternatives the best one."""
    alternatives = [
        [judge_answer(part.strip(), item.pred)[0] for part in one.split(ALL)] for one in item.answer.split(ANY)
    ]
    return {"score": max(sum(right) / len(right) for right in alternatives)}


PAIR_REVIEW_PROMPT = JudgePrompt(
    name=PAIR_REVIEW,
    system="You are a helpful and precise assistant for checking the quality of the answer.",
    user=(
        f"[Context]\n{{{CONTEXT}}}\n\n[Question]\n{{question}}\n\n"
        "[Assistant 1]\n{answer}\n\n[End of Assistant 1]\n\n[Assistant 2]\n{pred}\n\n[End of Assistant 2]\n\n"
        f"[System]\n{_REVIEW}\n\n"
    ),
    form=pair_of_scores(LOWEST_OF_PAIR, HIGHEST_OF_PAIR),
    parameters={"temperature": 0.2, "max_tokens": 1024},
    reply_tokens=200,
    offline=_review_offline,
)
CORRECTNESS_OF_PARTS_PROMPT = JudgePrompt(
    name=CORRECTNESS_OF_PARTS,
    system="",
    user=f"{_CORRECTNESS}{{question}} | {{{ELEMENTS}}} | {{pred}} | ",
    form=leading_number(0, 1),
    parameters={"max_tokens": 3, "temperature": 0.0},
    insisting="\nPredict the correctness of the answer (digit): ",
    retries=tuple({"temperature": temperature} for temperature in (0.0, 0.5, 1.0, 1.5, 2.0)),
    reply_tokens=3,
    offline=_parts_offline,
)
