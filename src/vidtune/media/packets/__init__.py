"""Packets of a video: their table, where decoding may start, and decoding of chosen groups of pictures."""
