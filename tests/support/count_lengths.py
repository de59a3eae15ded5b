"""Counts the lengths of an annotation file in worker processes, chunk by chunk; without a guard around it, so that a
worker that ran it again would show.

Arguments: annotation file, cache folder. Says "started" once.
"""

import sys
import time
from pathlib import Path

from tiny_stage import Source, maker

from vidtune.data.tables import AnnotationTable
from vidtune.planning import lengths

print("started", flush=True)
lengths.WORTH_PROCESSES, lengths.CHUNK = 1, 10
cache = Path(sys.argv[2])
table = AnnotationTable.open([Source(Path(sys.argv[1]))], cache)
lengths.open_lengths(table, maker(), cache, workers=2, progress=lambda what, done, total: time.sleep(0.05))
print("finished", flush=True)
