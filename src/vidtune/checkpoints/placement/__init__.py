"""Where a loaded model computes: devices of its parts, weights in fewer bits, and the memory that they take."""
