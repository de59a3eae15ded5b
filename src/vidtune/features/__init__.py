"""The feature store: what frozen towers give, computed once and read many times."""
