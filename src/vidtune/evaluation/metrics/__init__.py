"""Offline metrics: captions against captions, intervals against intervals. Pure functions on text and numbers."""
