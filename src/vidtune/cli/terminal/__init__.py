"""What the terminal gets, with control characters shown and not obeyed, and what Ctrl-C does."""
