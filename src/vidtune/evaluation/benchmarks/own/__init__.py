"""Test sets of one's own: a file of JSON lines as a benchmark."""
