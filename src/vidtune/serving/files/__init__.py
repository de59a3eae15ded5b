"""Files of requests: sent along, sent before, or fetched from the web."""
