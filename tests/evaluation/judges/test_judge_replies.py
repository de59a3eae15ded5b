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
