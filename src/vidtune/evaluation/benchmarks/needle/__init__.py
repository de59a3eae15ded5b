"""Needle in a haystack: pictures hidden in a long video, and questions about them."""
