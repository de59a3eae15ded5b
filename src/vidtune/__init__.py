"""vidtune: train, run and validate video language models."""

__version__ = "0.1.0"
