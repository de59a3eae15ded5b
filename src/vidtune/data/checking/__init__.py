"""Checks every sample and every media file of training data before the training, and lists what cannot be used."""
