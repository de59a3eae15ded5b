"""Media files to tensors: containers, probing, decoding, a pool of worker processes."""
