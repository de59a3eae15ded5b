"""Checkpoints: recognise what a path holds, load it into a model, write it in any format."""
