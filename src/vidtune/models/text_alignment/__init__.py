"""Alignment of media with texts: what the stages with an ``objective`` minimise."""
