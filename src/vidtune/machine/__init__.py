"""The computer: cores, memory, worker processes, locks, atomic files, append-only records, progress."""
