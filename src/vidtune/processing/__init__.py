"""Samples to examples and batches: prompts, tokens, labels, placeholders."""
