"""Sources to one model: its config, its weights, and what stands on them."""
