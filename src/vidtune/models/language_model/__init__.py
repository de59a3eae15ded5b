"""The language model: packed attention, loss, quantised weights."""
