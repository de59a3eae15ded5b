"""Judges of free-form answers: offline rules, or any endpoint that speaks the OpenAI protocol.

The name of the judge is part of every score.
"""

from vidtune.errors import UserError
from vidtune.evaluation.judges.base import Judge
from vidtune.evaluation.judges.rules import RulesJudge

DEFAULT_JUDGE = "rules-v1"


def get_judge(name: str = DEFAULT_JUDGE) -> Judge:
    """A judge that needs no settings, by name; "rules" is the newest rule-based one."""
    if name in ("rules", DEFAULT_JUDGE):
        return RulesJudge()
    raise UserError(f"unknown judge {name!r}; without an endpoint there is {DEFAULT_JUDGE!r}")
