"""Metrics of structured answers, as pure functions: captions against captions, intervals against intervals."""
