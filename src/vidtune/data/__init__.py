"""Annotations to samples: one reader per format, tables, checking."""
