"""Runs commands one after the other in one process, which imports once; prints code, output and errors of each as JSON.

Arguments: a JSON list of commands, each a list of words.
"""

import contextlib
import io
import json
import sys

from vidtune.cli.main import run

for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words)
    print(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue()}), flush=True)
