"""Low-rank adapters: put into a model, merged into its weights, stored as files and bundles."""
