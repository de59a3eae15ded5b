"""Prices of chat models: a table that a user can extend."""
