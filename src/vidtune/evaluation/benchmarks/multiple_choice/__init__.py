"""Benchmarks whose questions name their options: the model picks one."""
