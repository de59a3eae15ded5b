"""Judges: programs and models that score free-form answers."""

_RULES = "vidtune.evaluation.judges.rules:RULES"

PARTS = {"rules-v1": _RULES, "rules": _RULES}  # "rules" is the newest version
