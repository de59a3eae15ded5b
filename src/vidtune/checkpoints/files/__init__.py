"""Files of checkpoints: tensors, archives, snapshots of hub repositories."""
