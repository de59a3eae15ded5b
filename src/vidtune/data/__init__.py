"""Annotations become samples: one reader per annotation format, memory-mapped tables, checks of samples and files."""

PARTS = {
    "conversations": "vidtune.data.conversations:read_conversations",
    "referring": "vidtune.data.referring:read_referring",
    "mixture": "vidtune.data.mixture:MIXTURE",
}
"""Annotation formats by name. A reader is a function of a file's path and content that yields Annotations; a `SetList`
returns the data sets that a file lists."""
