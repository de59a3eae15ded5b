"""vidtune: train, run and validate video language models."""

from vidtune.models.auto import announce_auto_classes as _announce_auto_classes

__version__ = "0.1.0"

_announce_auto_classes()
