"""The world of moments: long, mostly quiet videos with short events, for questions about what happened when."""
