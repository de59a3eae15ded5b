"""Reading replies of a judge."""

import pytest

from vidtune.evaluation.judges.replies import UnparsableReply, Verdict, parse_literal, read_literal


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
