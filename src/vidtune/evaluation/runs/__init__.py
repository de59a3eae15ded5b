"""Evaluation runs on disk: folder, identity of what was evaluated, files of the official scripts."""
