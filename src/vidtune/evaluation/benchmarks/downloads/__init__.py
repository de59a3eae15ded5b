"""What each test set holds, what must be downloaded for it, and where that goes."""
