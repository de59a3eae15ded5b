"""Runs in the forms of other programs: rows of questions, tables of scores, logs of inspect."""
