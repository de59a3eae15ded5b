"""Models that answer benchmarks: checkpoints of ours, models of transformers, chat endpoints."""
