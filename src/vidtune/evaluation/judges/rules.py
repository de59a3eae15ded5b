"""The offline judge: rules on normalised words. Fast, free, deterministic; stricter than a chat model on paraphrases.

Both texts are lower-cased; punctuation, articles and forms of "to be" are removed, number words become digits, and word
endings are cut (so that "circles" and "circle", "moving" and "moves" agree). Then

1. a reference that is yes or no: the first yes, no or "not" of the prediction decides;
2. a reference that is a number: the first number of the prediction decides;
3. otherwise the prediction is right when it contains the words of the reference one after the other, without a negation
   right before them, and not as one of several alternatives ("red or blue").

Score: 5 for equal words, 4 for a right answer, otherwise twice the F1 of the words, rounded, so 0 to 2. Of two answers
that are judged together the worse one counts. A prompt whose reply has another form says what takes its place
(`JudgePrompt.offline`).
A change of these rules needs a new name.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from vidtune.evaluation.judges.base import Judge, JudgeItem, Judgement, Usage
from vidtune.evaluation.judges.prompts import VIDEO_QA, prompt_of

_COUNTED = (
    "zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen, fifteen, "
    "sixteen, seventeen, eighteen, nineteen, twenty"
)
NUMBERS = {word: str(value) for value, word in enumerate(_COUNTED.split(", "))} | {
    "none": "0",
    "once": "1",
    "twice": "2",
}
SPELLINGS = {
    "colour": "color",
    "grey": "gray",
    "leftward": "left",
    "leftwards": "left",
    "rightward": "right",
    "rightwards": "right",
    "upward": "up",
    "upwards": "up",
    "downward": "down",
    "downwards": "down",
    "tv": "television",
    "yeah": "yes",
    "yep": "yes",
    "nope": "no",
}
FILLERS = frozenset(
    ("a", "an", "the", "is", "are", "was", "were", "be", "been", "being", "it", "its", "it's", "there", "of")
)
NEGATIONS = frozenset(("no", "not", "never", "neither", "nor", "without")) | {
    f"{verb}n't" for verb in ("is", "are", "was", "were", "does", "do", "did", "ca", "wo")
}
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*|\d+")


class RulesJudge(Judge):
    """Judges by `rules-v1` as described at the top of this file."""

    def __init__(self) -> None:
        self.name = "rules-v1"
        self.identity = {"kind": "rules", "version": 1}

    def judge(self, items: Sequence[JudgeItem], done: Callable[[Judgement], None]) -> Usage:
        for item in items:
            offline = prompt_of(item, VIDEO_QA).offline or _yes_and_score
            done(Judgement(item, offline(item)))
        return Usage()


def _yes_and_score(item: JudgeItem) -> dict[str, Any]:
    answers = [item.pred] if item.second is None else [item.pred, item.second[1]]
    correct, score = min(max(judge_answer(one, pred) for one in item.answers) for pred in answers)
    return {"pred": "yes" if correct else "no", "score": score}


def judge_answer(reference: str, prediction: str) -> tuple[bool, int]:
    """Returns the verdict (True: right) and the score (0 to 5) of one prediction, by one reference answer."""
    wanted, given = normalise(reference), normalise(prediction)
    if wanted == given:
        return True, 5
    if _is_right(wanted, given):
        return True, 4
    shared = sum((Counter(wanted) & Counter(given)).values())
    return False, round(4 * shared / (len(wanted) + len(given)))


def normalise(text: str) -> list[str]:
    """Returns the words that are compared, each in one spelling."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).lower().replace("’", "'"))
    return [_stem(SPELLINGS.get(word, NUMBERS.get(word, word))) for word in words if word not in FILLERS]


def _is_right(wanted: list[str], given: list[str]) -> bool:
    if not wanted or not given:
        return False
    if wanted in (["yes"], ["no"]):
        said = next((word for word in given if word == "yes" or word in NEGATIONS), None)
        return said is not None and (said == "yes") == (wanted == ["yes"])
    if len(wanted) == 1 and wanted[0].isdecimal():
        return next((word for word in given if word.isdecimal()), None) == wanted[0]
    if "or" in given and "or" not in wanted:
        return False
    size = len(wanted)
    return any(
        given[start : start + size] == wanted and (start == 0 or given[start - 1] not in NEGATIONS)
        for start in range(len(given) - size + 1)
    )


def _stem(word: str) -> str:
    """Cut the endings of plural, -ing and -ed; the result need not be a word, forms of one word only have to agree."""
    if not word.isalpha() or len(word) < 4:
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    for ending in ("ing", "ed"):
        root = word.removesuffix(ending)
        if root != word and len(root) > 2 and re.search("[aeiouy]", root):
            return (root[:-1] if root[-1] == root[-2] and root[-1] not in "lsz" else root).removesuffix("e")
    if word.endswith(("ses", "xes", "zes", "ches", "shes")):
        return word[:-2].removesuffix("e")
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    return word.removesuffix("e")


RULES = RulesJudge()
