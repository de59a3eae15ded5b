"""Commands that talk: the server."""
