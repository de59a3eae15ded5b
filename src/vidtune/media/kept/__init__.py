"""What is kept of media files between runs, found again by the content of the file."""
