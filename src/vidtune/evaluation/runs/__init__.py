"""Evaluation runs on disk: folder, which checkpoint was evaluated, judgements, files of the official scripts."""
