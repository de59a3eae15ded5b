"""Files that others wrote: only regular files are opened, within limits, and what is wrong names the file."""
