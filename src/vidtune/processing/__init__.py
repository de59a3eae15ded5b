"""Samples to examples and batches: styles of prompts, tokens, labels, placeholders."""
