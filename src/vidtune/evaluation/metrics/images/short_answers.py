"""Short answers as the servers of VQA compare them, and the soft accuracy over ten people's answers.

Normalisation of the EvalAI servers of VQA v2 (Goyal et al., CVPR 2017), also that of TextVQA (Singh et al., CVPR 2019,
M4C): words, then punctuation, then numbers, articles and contractions. Oddities of the published code are kept: at most
32 periods are removed, and some contractions have no reading at all.
"""

import re
from collections import Counter
from collections.abc import Sequence

from vidtune.evaluation.metrics.images.contractions import CONTRACTIONS
from vidtune.evaluation.metrics.punctuation import without_marks

PEOPLE = 10
"""Number of people that answered a question."""
AGREEING = 3
"""Number of others that must give an answer for it to be wholly right."""
_COMMA_IN_NUMBER = re.compile(r"(?<=\d),+(?=\d)")
_NUMBERS = {
    word: str(number)
    for number, words in enumerate(
        ("none zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
    for word in words.split()
}
_ARTICLES = ("a", "an", "the")


def normalised(answer: str) -> str:
    """Returns an answer in the form in which answers are compared."""
    text = of_words(answer).replace("\n", " ").replace("\t", " ").strip()
    return of_numbers(of_punctuation(text))


def of_words(text: str) -> str:
    """First step: lower case, without commas and question marks, "'s" as a word of its own."""
    return text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()


def of_punctuation(text: str) -> str:
    """Second step: a mark beside a blank vanishes, any other becomes a blank; periods behind numbers vanish."""
    return without_marks(text, _COMMA_IN_NUMBER)


def of_numbers(text: str) -> str:
    """Third step: words for 0 to 10 as digits, no articles, contractions with an apostrophe."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def soft_accuracies(answers: Sequence[str]) -> dict[str, float]:
    """Returns what each normalised answer is worth, 0 to 1.

    An answer is compared with those of all people but one, in turn: it is worth a third for each that agrees, at most
    1. Its value is the mean over the people left out.

    Raises:
        ValueError: there are not ten answers.
    """
    if len(answers) != PEOPLE:
        raise ValueError(f"{len(answers)} answers, expected {PEOPLE}")
    given = [normalised(answer) for answer in answers]
    counts = Counter(given)
    return {
        answer: sum(min(1.0, (counts[answer] - (other == answer)) / AGREEING) for other in given) / PEOPLE
        for answer in counts
    }


def soft_accuracy(answer: str, answers: Sequence[str]) -> float:
    """Returns what an answer is worth by those of ten people, 0 to 1; see `soft_accuracies`."""
    return soft_accuracies(answers).get(normalised(answer), 0.0)
