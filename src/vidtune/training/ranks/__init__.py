"""Training on several processes: the group of ranks, data-parallel wrappers, starting them."""
