"""The offline judge, case by case."""

import pytest

from vidtune.evaluation.judges.base import JudgeItem
from vidtune.evaluation.judges.rules import judge_answer
from vidtune.registry import JUDGE_PROMPTS, JUDGES


@pytest.mark.parametrize(
    ("reference", "prediction"),
    [
        ("red", "Red."),
        ("red", "The circle is red, I think."),
        ("gray", "It is grey"),
        ("two", "There are 2 circles."),
        ("2", "two"),
        ("circle", "circles"),
        ("run", "He is running."),
        ("dance", "They are dancing"),
        ("left", "It moves leftwards"),
        ("yes", "Yes, it does."),
        ("no", "It does not."),
        ("no", "No, it isn't."),
        ("red circle", "a red circle"),
        ("red or blue", "red or blue"),
        ("none", "0"),
        ("the man's dog", "The man\u2019s dog!"),
        ("猫", "猫"),
    ],
)
def test_right(reference, prediction):
    correct, score = judge_answer(reference, prediction)
    assert correct and score >= 4


@pytest.mark.parametrize(
    ("reference", "prediction"),
    [
        ("red", "blue"),
        ("red", ""),
        ("red", "It is not red."),
        ("red", "red or blue"),
        ("red", "It was hired"),
        ("two", "three, not two"),
        ("1", "11"),
        ("yes", "No, not yes"),
        ("yes", "maybe"),
        ("no", "nobody knows"),
        ("red circle", "circle red"),
        ("red circle", "red square and blue circle"),
        ("man", "woman"),
        ("", "something"),
    ],
)
def test_wrong(reference, prediction):
    correct, score = judge_answer(reference, prediction)
    assert not correct and 0 <= score <= 2


def test_scores_grow_with_agreement():
    scores = [
        judge_answer("red circle", text)[1]
        for text in ("blue square", "red square", "it is a red circle.", "red circle")
    ]
    assert scores == sorted(scores) and scores[0] == 0 and scores[-1] == 5


def test_a_pile_of_all_numbers_is_judged_by_the_first():
    assert not judge_answer("3", "1 2 3 4 5")[0]


def test_the_judge_names_its_version_and_asks_nobody():
    judge = JUDGES["rules"]
    found = []
    usage = judge.judge([JudgeItem("1", "what?", "cat", "a cat")], found.append)
    assert judge.name == "rules-v1"
    assert [judgement.value for judgement in found] == [{"pred": "yes", "score": 5}]
    assert usage.calls == 0 and judge.estimate([]).calls == 0


@pytest.mark.parametrize(
    ("prompt", "answer", "pred", "value"),
    [
        ("pair-review", "a red circle", "a red circle", [10, 10]),
        ("pair-review", "a red circle", "a dog", [10, 1]),
        ("correctness-of-parts", "-1<AND>-5", "x = -5", {"score": 0.5}),
        ("correctness-of-parts", "left<OR>on the left", "It is left.", {"score": 1.0}),
        ("correctness-of-parts", "red<AND>blue<OR>green", "blue", {"score": 0.5}),
    ],
)
def test_a_prompt_with_another_reply_is_judged_by_rules_of_its_own(prompt, answer, pred, value):
    found = []
    JUDGES["rules"].judge([JudgeItem("1", "what?", answer, pred, prompt=prompt)], found.append)
    assert found[0].value == value and JUDGE_PROMPTS[prompt].form.counts(value)
