"""Recipes: YAML files that say which system is built, how it is trained, and what it is scored on."""
