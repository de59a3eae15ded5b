"""Setting up a stage before its first step: folder, data, starting model, trained components."""
