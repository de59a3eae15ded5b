"""Published scores of the systems, with their sources, as data (``scores.yaml``)."""
