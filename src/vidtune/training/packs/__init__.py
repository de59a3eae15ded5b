"""Packs of a stage on their way to the model: decoded, collated, moved to the device."""
