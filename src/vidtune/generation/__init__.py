"""The answer engine: shared prefix, batching, decoding settings, conversations."""
