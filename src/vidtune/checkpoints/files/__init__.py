"""Files of checkpoints, each opened once: JSON, tensors, archives, snapshots of hub repositories."""
