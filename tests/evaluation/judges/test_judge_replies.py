"""Reading replies of a judge."""

import pytest

from vidtune.evaluation.judges.replies import (
    SCORE_ALONE,
    YES_AND_SCORE,
    UnparsableReply,
    Verdict,
    leading_number,
    pair_of_scores,
    parse_literal,
    read_literal,
)
from vidtune.evaluation.judges.wild_text import FENCE, PROSE, REASONING, SPELLING
from vidtune.evaluation.judges.wild_text import NUMBER as AS_TEXT
from vidtune.evaluation.ledger import Judging


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'pred': 'yes', 'score': 4.8}", {"pred": "yes", "score": 4.8}),
        ("  {'pred': 'yes', 'score': 4}\n", {"pred": "yes", "score": 4}),
        ('{"pred": "no", "score": True}', {"pred": "no", "score": True}),
        ("('yes', 4)", ["yes", 4]),
        ("5", 5),
        ("None", None),
    ],
)
def test_python_literals_are_kept_as_they_are(text, value):
    assert parse_literal(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sure! {'pred': 'yes', 'score': 5}",
        "{'pred': yes, 'score': 4}",
        '{"pred": "yes", "score": null}',
        "```python\n{'pred': 'yes', 'score': 5}\n```",
        "__import__('os').getcwd()",
        "{1, 2}",
        "b'yes'",
        "(" * 5000,
        "'" + "x" * 30_000 + "'",
        "'half\x00",
    ],
)
def test_anything_else_has_to_be_asked_for_again(text):
    with pytest.raises(UnparsableReply):
        parse_literal(text)


@pytest.mark.parametrize(
    ("judgement", "verdict"),
    [
        ({"pred": "yes", "score": 4.8}, Verdict(4, True)),
        ({"pred": "Unknown", "score": "3"}, Verdict(3, False)),
        ({"pred": "yes and no", "score": 3}, Verdict(3, True)),
        ({"pred": "maybe", "score": 2}, Verdict(2, None)),
        ({"pred": "yes", "score": "2.5"}, Verdict(None, None)),
        ({"pred": "yes"}, Verdict(None, None)),
        ({"score": 3}, Verdict(3, None)),
        ({"pred": True, "score": 3}, Verdict(3, None)),
        ({"pred": "yes", "score": float("inf")}, Verdict(None, None)),
        ([{"pred": "yes", "score": 4}], Verdict(None, None)),
        (5, Verdict(None, None)),
    ],
)
def test_a_judgement_counts_as_far_as_the_published_script_reads_it(judgement, verdict):
    assert read_literal(judgement) == verdict


PAIR, NUMBER = pair_of_scores(1, 10), leading_number(0, 1)


@pytest.mark.parametrize(
    ("form", "text", "state", "verdict"),
    [
        (PAIR, "8 6.5\nThe second one ...", Judging.JUDGED, Verdict(6.5, reference=8.0)),
        (PAIR, "8 11", Judging.OUT_OF_RANGE, Verdict(11.0, reference=8.0)),
        (PAIR, "0 5", Judging.OUT_OF_RANGE, Verdict(5.0, reference=0.0)),
        (PAIR, "Both are good.\n8 6", Judging.UNREADABLE, Verdict(-1, reference=-1)),
        (PAIR, "nan 5", Judging.UNREADABLE, Verdict(-1, reference=-1)),
        (NUMBER, "0.9 ok", Judging.JUDGED, Verdict(0.9)),
        (SCORE_ALONE, "{'score': 4.8}", Judging.JUDGED, Verdict(4)),
        (YES_AND_SCORE, "{'score': 4.8}", Judging.NO_VERDICT, Verdict(4)),
    ],
)
def test_a_reply_is_read_in_the_form_that_was_asked_for(form, text, state, verdict):
    value = form.parse(text)
    assert (form.state(value), form.read(value)) == (state, verdict)
    assert form.counts(value) == (state in (Judging.JUDGED, Judging.NO_VERDICT))


@pytest.mark.parametrize("text", ["", " 0.5", "2.0", "-0.1", "x 0.5", "nan", "0.5.", "inf"])
def test_what_does_not_begin_with_a_number_on_the_scale_is_asked_for_again(text):
    with pytest.raises(UnparsableReply, match="from 0 to 1"):
        NUMBER.parse(text)
    assert NUMBER.read(NUMBER.given_up) == Verdict(0.0)


YES = "{'pred': 'yes', 'score': 4}"
YES_4 = {"pred": "yes", "score": 4}


@pytest.mark.parametrize(
    ("form", "text", "value", "overlooked"),
    [
        (YES_AND_SCORE, YES, YES_4, ()),
        (YES_AND_SCORE, "{'pred': 'Unknown', 'score': 3}", {"pred": "Unknown", "score": 3}, ()),
        (YES_AND_SCORE, f"```python\n{YES}\n```", YES_4, (FENCE,)),
        (YES_AND_SCORE, f"```{YES}```", YES_4, (FENCE,)),
        (YES_AND_SCORE, f"<think>It says {{'pred': 'no', 'score': 0}}.</think>\n{YES}", YES_4, (REASONING,)),
        (YES_AND_SCORE, f"It matches.\n</think>\n\n```json\n{YES}\n```", YES_4, (REASONING, FENCE)),
        (YES_AND_SCORE, f"Sure! {YES} I hope that helps.", YES_4, (PROSE,)),
        (YES_AND_SCORE, f"{YES}, so the verdict is {YES}", YES_4, (PROSE,)),
        (YES_AND_SCORE, f"[{YES}]", YES_4, (PROSE,)),
        (YES_AND_SCORE, '{"verdict": {"pred": "yes", "score": 4}}', YES_4, (PROSE,)),
        (YES_AND_SCORE, '{"pred": true, "score": 4.0, "why": {"a": null}}', YES_4, (SPELLING,)),
        (YES_AND_SCORE, "{'pred': True, 'score': 4}", YES_4, (SPELLING,)),
        (YES_AND_SCORE, "{pred: yes, score: 4}", YES_4, (SPELLING,)),
        (YES_AND_SCORE, "{“Pred”: “Yes.”, “Score”: 4}", YES_4, (SPELLING,)),
        (YES_AND_SCORE, "{'pred': 'yes', 'score': '4.5'}", {"pred": "yes", "score": 4.5}, (AS_TEXT,)),
        (YES_AND_SCORE, "{'pred': 'yes', 'score': '4/5'}", YES_4, (AS_TEXT,)),
        (YES_AND_SCORE, "Hm: {'pred': 'no', 'score': 9}", {"pred": "no", "score": 9}, (PROSE,)),
        (SCORE_ALONE, "{''score': 4.8}", {"score": 4.8}, (SPELLING,)),
        (SCORE_ALONE, "Score: {'score': 3}", {"score": 3}, (PROSE,)),
        (PAIR, "8, 7\nBoth ...", [8.0, 7.0], (SPELLING,)),
        (PAIR, "<think>First: 3 4</think>\n\n**8 6.5**", [8.0, 6.5], (REASONING, SPELLING)),
        (NUMBER, " 0.5", {"score": 0.5}, (SPELLING,)),
        (NUMBER, "Correctness: **0.5**.", {"score": 0.5}, (SPELLING,)),
        (NUMBER, "```\n0.5\n```", {"score": 0.5}, (FENCE, SPELLING)),
    ],
)
def test_a_lenient_judge_understands_what_is_certain_and_says_what_it_overlooked(form, text, value, overlooked):
    assert form.reading(text, lenient=True) == (value, overlooked)
    if overlooked:
        try:
            strict = form.reading(text)[0]
        except UnparsableReply:
            return
        assert form.state(strict) in (Judging.UNREADABLE, Judging.NO_VERDICT)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (YES_AND_SCORE, f"For example {{'pred': 'no', 'score': 4.8}}. My verdict: {YES}"),
        (YES_AND_SCORE, f"<think>Maybe {YES}, but"),
        (YES_AND_SCORE, f"{YES[:-1]}"),
        (YES_AND_SCORE, "Yes, 4 of 5."),
        (YES_AND_SCORE, "So: {'pred': 'unknown', 'score': 3}"),
        (YES_AND_SCORE, "So: {'pred': 'yes or no', 'score': 3}"),
        (YES_AND_SCORE, "So: {'score': 3}"),
        (YES_AND_SCORE, "So: {'pred': 'yes', 'score': true}"),
        (YES_AND_SCORE, "So: {'pred': 'yes', 'score': '4/10'}"),
        (YES_AND_SCORE, "So: {'pred': 'yes', 'score': 4, 'Score': 5}"),
        (YES_AND_SCORE, "So: {'pred': 'yes', 'score': 1e999}"),
        (YES_AND_SCORE, "{" * 60_000),
        (YES_AND_SCORE, "<think>" * 9_000),
        (NUMBER, "2.0"),
        (NUMBER, "It missed 1 object."),
        (NUMBER, "Between 0.5 and 0.6"),
    ],
)
def test_what_is_not_certain_stays_unread(form, text):
    with pytest.raises(UnparsableReply):
        form.reading(text, lenient=True)
