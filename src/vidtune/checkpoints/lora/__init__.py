"""Low-rank adapters and rows of added tokens: put into a model, merged into its weights, stored as bundles."""
