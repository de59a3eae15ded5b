"""Low-rank adapters: put into a model, stored as bundles, merged, exported."""
