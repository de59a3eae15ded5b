"""Benchmarks that ask when something happens; answers name seconds."""
