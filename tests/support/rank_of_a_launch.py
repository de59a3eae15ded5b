"""What the tests of the launcher start instead of training: ``rank_of_a_launch.py FOLDER WHAT``.

It writes its variables to ``FOLDER/<rank>.json``, then rank 1 does WHAT: "end", "fail", "mistake" or "die"; the others
(for "end" none) wait until SIGTERM, on which they leave with 130, or for "clean" with 143.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from vidtune.machine.ranks.launch import follow_launcher

folder, what, rank = Path(sys.argv[1]), sys.argv[2], os.environ["RANK"]
code = 128 + signal.SIGTERM if what == "clean" else 130
signal.signal(signal.SIGTERM, lambda *_: sys.exit(code))
told = {name: os.environ[name] for name in os.environ if name.startswith(("MASTER", "LOCAL", "WORLD", "RANK"))}
follow_launcher()
(folder / f"{rank}.json").write_text(json.dumps({**told, "process": os.getpid()}))
if what == "end":
    sys.exit(0)
if rank == "1":
    if what == "fail":
        sys.exit(7)
    if what == "mistake":
        sys.exit(2)
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
if what == "mistake":  # found by all ranks
    sys.exit(2)
time.sleep(280)
