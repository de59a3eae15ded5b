"""Evaluation: predict by a hashed protocol, judge or measure, score, report."""
