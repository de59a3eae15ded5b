"""What an address of the API does: chat completions, metrics."""
