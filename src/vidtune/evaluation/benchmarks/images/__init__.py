"""Benchmarks of pictures: short answers, option letters, descriptions, in the layout of LLaVA's evaluation folder."""
