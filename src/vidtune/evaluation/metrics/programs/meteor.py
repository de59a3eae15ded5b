"""METEOR 1.5 of captions (Denkowski & Lavie, WMT 2014), computed by the published Java program.

The program aligns a caption with its references and replies with counts; a score is a formula over summed counts
(sections 2 and 3 of the paper, with the parameters tuned for English). Starting the program takes seconds, so one
process serves all calls, and a pair that comes again is not sent again.
"""

import re
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import IO

import numpy as np

from vidtune.errors import UserError
from vidtune.evaluation.metrics.base import MetricValues, check_pairs
from vidtune.evaluation.metrics.programs.java import METEOR_JAR, UTF8, java_problem, java_program

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # of matches that are exact, of stems, synonyms, paraphrases
STATISTICS = 23
# Lines asked before their replies are read: those replies (some 100 bytes each) fit the smallest usual pipe buffer
# (16 KiB), so the program never waits for us while we wait for it.
_LINES_AT_ONCE = 100
_LENGTHS, _FUNCTIONS, _MATCHES, _CHUNKS, _MATCHED = slice(0, 2), slice(2, 4), slice(4, 20), 20, slice(21, 23)
_Pair = tuple[tuple[str, ...], str]


def meteor_problem() -> str | None:
    """Returns why METEOR cannot run here, and what to install; None: it can run."""
    return java_problem(METEOR_JAR)


class Meteor:
    """A running METEOR program; close it, or use it in a ``with`` statement.

    Raises:
        UserError: Java or the program is not installed.
    """

    def __init__(self) -> None:
        java, jar = java_program(METEOR_JAR, "METEOR")
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._known: dict[_Pair, np.ndarray] = {}
        self._lock = threading.Lock()
        command = [java, "-Xmx2G", UTF8, "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, cwd=jar.parent
        )

    def __enter__(self) -> "Meteor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the program."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def scores(self, references: Sequence[Sequence[str]], predictions: Sequence[str]) -> MetricValues:
        """Returns METEOR of tokenised captions; the value of the corpus comes from its summed counts. A CaptionMetric.

        Raises:
            UserError: the program ended or gave an unreadable reply; the message quotes it.
            ValueError: an item without reference, or lists of different length.
        """
        check_pairs(references, predictions)
        pairs: list[_Pair] = [
            (tuple(_one_line(text) for text in texts), _one_line(prediction))
            for texts, prediction in zip(references, predictions, strict=True)
        ]
        with self._lock:
            asked = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
            for start in range(0, len(asked), _LINES_AT_ONCE):
                part = asked[start : start + _LINES_AT_ONCE]
                self._known.update(zip(part, self._ask(part), strict=True))
            rows = [self._known[pair] for pair in pairs]
        return MetricValues.of(np.array(rows, dtype=np.float64).reshape(len(rows), STATISTICS), meteor_of_sums)

    def _ask(self, pairs: Sequence[_Pair]) -> list[np.ndarray]:
        """The counts of each pair. Shape: pairs -> list of (STATISTICS,)"""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        lines = "".join(" ||| ".join(("SCORE", *texts, prediction)) + "\n" for texts, prediction in pairs)
        try:
            stdin.write(lines.encode(errors="replace"))
            stdin.flush()
        except (OSError, ValueError):  # its end of the pipe is gone, or ours is
            raise self._failure() from None
        rows = []
        for _ in pairs:
            reply = stdout.readline()
            if not reply.endswith(b"\n"):
                raise self._failure()
            row = _read_reply(reply)
            if row is None:
                self._process.kill()  # replies no longer go with questions
                raise UserError(f"METEOR: unexpected reply: {reply.decode(errors='replace').strip()[:200]}")
            rows.append(row)
        return rows

    def _failure(self) -> UserError:
        if self._errors.closed:
            return UserError("METEOR: the program was closed")
        self._process.kill()
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(said) if line.strip()), "it said nothing")
        return UserError(f"METEOR: the Java program ended (exit code {code}): {last[:300]}")


def meteor_of_sums(sums: np.ndarray) -> np.ndarray:
    """Returns the score of summed counts.

    A row holds: words of the prediction, words of the reference, function words of each; then per kind of match content
    words matched in the prediction and in the reference, function words in the prediction and in the reference; then
    chunks, words matched in the prediction, words matched in the reference.

    Shape: (..., STATISTICS) -> (...)
    """
    lengths, functions = sums[..., _LENGTHS], sums[..., _FUNCTIONS]
    matches = sums[..., _MATCHES].reshape(*sums.shape[:-1], 4, 2, 2)  # kind of match, content or function, side
    weighted = DELTA * matches[..., 0, :] + (1 - DELTA) * matches[..., 1, :]
    found = np.einsum("...ks,k->...s", weighted, WEIGHTS)
    possible = DELTA * (lengths - functions) + (1 - DELTA) * functions
    precision, recall = np.moveaxis(_divide(found, possible), -1, 0)
    mean = _divide(precision * recall, ALPHA * precision + (1 - ALPHA) * recall)
    fragments = _divide(sums[..., _CHUNKS], sums[..., _MATCHED].sum(axis=-1) / 2)
    return mean * (1 - GAMMA * fragments**BETA)


def _read_reply(reply: bytes) -> np.ndarray | None:
    """The counts of a reply; None: it cannot be read. Shape: (STATISTICS,)

    A prediction that matches its reference from end to end has no fragmentation: its only chunk does not count.
    """
    try:
        row = np.array([float(number) for number in reply.split()])
    except ValueError:
        return None
    if row.shape != (STATISTICS,):
        return None
    if row[_CHUNKS] == 1 and (row[_MATCHED] == row[_LENGTHS]).all():
        row[_CHUNKS] = 0
    return row


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Quotient; 0 where ``below`` is 0."""
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)


def _one_line(text: str) -> str:
    """The text without line ends and without the mark that separates texts for the program."""
    return re.sub("[ \r\n]+", " ", text.replace("|||", "")).strip(" ")
