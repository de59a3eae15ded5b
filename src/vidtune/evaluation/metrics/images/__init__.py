"""Metrics of answers about pictures, as the published scorers of VQA, TextVQA, GQA, POPE and MME compute them."""
