"""Commands that talk: the server, and a conversation in the terminal."""
