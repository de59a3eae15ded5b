"""The feature store: outputs of frozen towers, computed once and read many times."""
