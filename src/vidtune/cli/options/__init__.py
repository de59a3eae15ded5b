"""Options and printed lines that several commands share."""
