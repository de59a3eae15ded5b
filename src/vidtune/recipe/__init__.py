"""Recipes: YAML files that describe a system, its training stages and its benchmarks, as typed values."""
