"""Scores: named values with intervals, from verdicts of judges or from metrics; stored, compared, told apart."""
