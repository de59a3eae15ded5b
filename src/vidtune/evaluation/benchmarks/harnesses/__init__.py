"""What public evaluation harnesses ask a model, as rules of a protocol."""
