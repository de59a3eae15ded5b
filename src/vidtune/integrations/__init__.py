"""Adapters: vidtune's models inside other tools."""
