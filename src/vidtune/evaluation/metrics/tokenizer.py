"""Penn Treebank tokens of captions, lower-case and without punctuation, as captioning metrics expect them.

Published numbers are computed with the tokens of a Java program (Stanford CoreNLP 3.4.1, Manning et al., ACL 2014).
``java`` runs it; ``ptb`` is our own tokeniser, which needs no Java and gives the same tokens for English text
(``penn_treebank.py`` lists the exceptions).
"""

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from vidtune.errors import UserError
from vidtune.evaluation.metrics.penn_treebank import tokens_of
from vidtune.evaluation.metrics.programs.java import TOKENIZER_JAR, UTF8, java_program

TokenizerName = Literal["ptb", "java"]
# Brackets are not among them: lower-casing turns them into -lrb- and the like, and they stay.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
_PURPOSE = "tokenizer java"


def tokenize(texts: Sequence[str], tokenizer: TokenizerName = "ptb") -> list[str]:
    """Returns each text as tokens with a blank between them.

    As in the original, all texts are read as one input with a text per line. This has one odd effect: a contraction
    such as "we've" is not recognised directly before the end of the input.

    Raises:
        UserError: no such tokeniser, no Java, or its program failed.
    """
    if tokenizer not in get_args(TokenizerName):
        raise UserError(f"tokenizer {tokenizer!r}: there is {' and '.join(get_args(TokenizerName))}")
    if not texts:
        return []
    lines = [re.sub(r"\s", " ", text) for text in texts]  # other line ends than \n would shift the lines that follow
    if tokenizer == "java":
        return [_joined(line.rstrip().split(" ")) for line in _by_java(lines)]
    known = {line: _joined(tokens_of(line)) for line in dict.fromkeys(lines)}
    return [*(known[line] for line in lines[:-1]), _joined(tokens_of(lines[-1], ends_input=True))]


def _joined(tokens: Sequence[str]) -> str:
    return " ".join(token for token in tokens if token not in PUNCTUATION)


def _by_java(lines: Sequence[str]) -> list[str]:
    java, jar = java_program(TOKENIZER_JAR, _PURPOSE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.txt"
        path.write_bytes("\n".join(lines).encode(errors="replace"))
        command = [java, UTF8, "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
        done = subprocess.run(
            [*command, "-preserveLines", "-lowerCase", str(path)], capture_output=True, cwd=folder, check=False
        )
    found = done.stdout.decode(errors="replace").split("\n")
    if done.returncode or not len(lines) <= len(found) <= len(lines) + 1:
        said = done.stderr.decode(errors="replace").strip().split("\n")[-1]
        raise UserError(
            f"{_PURPOSE}: {len(lines)} texts, {len(found)} lines back (exit code {done.returncode}): {said}"
        )
    return found[: len(lines)]
