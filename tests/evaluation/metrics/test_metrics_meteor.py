"""The process behind METEOR: that it answers, that it fails in one line. A stand-in speaks its protocol where Java is
not installed; what it says about captions is checked with the real one in tests/parity/test_evaluation.py."""

import sys
from pathlib import Path

import numpy as np
import pytest

from vidtune.errors import UserError
from vidtune.evaluation.metrics import tokenizer
from vidtune.evaluation.metrics.programs.java import TOKENIZER_JAR, java_problem
from vidtune.evaluation.metrics.programs.meteor import Meteor, meteor_of_sums, meteor_problem

# Replies with the number of lines so far as length of the prediction, and that of characters as chunks.
STAND_IN = f"""#!{sys.executable}
import os, sys
mode = os.environ["STAND_IN"]
for number, line in enumerate(sys.stdin.buffer, 1):
    text = line.decode()
    assert text.startswith("SCORE ||| "), text
    if mode == "crash" and number == 150:
        sys.exit("Exception: java.lang.OutOfMemoryError")
    if mode == "nonsense":
        print("Error: specify hypothesis", flush=True)
        continue
    if mode == "half":
        print("1.0 2.0", end="", flush=True)
        sys.exit(3)
    row = [number, len(text), text.count(" ||| ")] + [0.0] * 20
    print(" ".join(str(float(count)) for count in row) + " " * 200, flush=True)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A package pycocoevalcap and a program java that are ours; the mode of the latter can be set."""
    package = tmp_path / "site" / "pycocoevalcap"
    for jar in ("meteor/meteor-1.5.jar", "tokenizer/stanford-corenlp-3.4.1.jar"):
        (package / jar).parent.mkdir(parents=True)
        (package / jar).write_bytes(b"")
    (package / "__init__.py").write_text("")
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(STAND_IN)
    java.chmod(0o755)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "pycocoevalcap", raising=False)
    monkeypatch.setenv("PATH", str(java.parent))
    monkeypatch.setenv("STAND_IN", "answer")
    return lambda mode: monkeypatch.setenv("STAND_IN", mode)


def many(count):
    return [[f"reference {number}"] for number in range(count)], [f"prediction {number}" for number in range(count)]


def test_thousands_of_long_pairs_come_back_in_order(stand_in):
    references, predictions = many(3000)
    with Meteor() as meteor:
        rows = meteor.scores([[texts[0] * 50] for texts in references], predictions).statistics
    assert rows[:, 0].tolist() == list(range(1, 3001))


def test_a_pair_is_asked_once(stand_in):
    with Meteor() as meteor:
        first = meteor.scores([["a"], ["b"], ["a"]], ["x", "x", "x"]).statistics
        second = meteor.scores([["c"], ["b"]], ["x", "x"]).statistics
    assert first[:, 0].tolist() == [1, 2, 1]
    assert second[:, 0].tolist() == [3, 2]


def test_text_cannot_break_the_protocol(stand_in):
    with Meteor() as meteor:
        rows = meteor.scores([["a ||| b\nSCORE ||| c", "\ud800 d"]], ["x\r\n|||y"]).statistics
        assert rows[0, 0] == 1 and rows[0, 2] == 3
        assert meteor.scores([["z"]], ["z"]).statistics[0, 0] == 2


def test_a_program_that_ends_says_why(stand_in):
    stand_in("crash")
    with Meteor() as meteor:
        with pytest.raises(UserError, match=r"^METEOR: the Java program ended \(exit code .*OutOfMemoryError$"):
            meteor.scores(*many(200))
        with pytest.raises(UserError, match="METEOR: the Java program ended"):
            meteor.scores([["another"]], ["pair"])


@pytest.mark.parametrize(
    ("mode", "message"), [("nonsense", "unexpected reply: Error: spec"), ("half", "it said nothing")]
)
def test_what_is_no_reply_ends_it(stand_in, mode, message):
    stand_in(mode)
    with Meteor() as meteor, pytest.raises(UserError, match=message):
        meteor.scores(*many(5))


def test_a_closed_program_is_not_asked(stand_in):
    with Meteor() as meteor:
        pass
    with pytest.raises(UserError, match="METEOR: the program was closed"):
        meteor.scores([["a"]], ["a"])


def test_what_is_missing_is_named(stand_in, tmp_path, monkeypatch):
    assert meteor_problem() is None and java_problem(TOKENIZER_JAR) is None
    (tmp_path / "bin" / "java").unlink()
    with pytest.raises(UserError, match="METEOR: Java is not installed"):
        Meteor()
    with pytest.raises(UserError, match="tokenizer java: Java is not installed"):
        tokenizer.tokenize(["a"], "java")
    (tmp_path / "site" / "pycocoevalcap" / "meteor" / "meteor-1.5.jar").unlink()
    with pytest.raises(UserError, match=r"METEOR: .*pip install 'vidtune\[meteor\]'"):
        Meteor()


def test_a_tokenizer_that_fails_says_so(stand_in, tmp_path):
    java = Path(tmp_path / "bin" / "java")
    java.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('Error: could not find main class')\n")
    with pytest.raises(UserError, match=r"2 texts, 1 lines back \(exit code 1\): Error: could not"):
        tokenizer.tokenize(["a", "b"], "java")


def test_the_score_is_the_formula_of_the_paper():
    row = np.zeros(23)
    row[:4] = 9, 9, 4, 4  # words, function words; prediction and reference
    row[4:8] = 3, 3, 3, 3  # exact
    row[8:12] = 1, 1, 0, 0  # stems
    row[12:16] = 1, 0, 0, 1  # synonyms
    row[20:] = 3, 8, 8  # chunks, matched
    precision = (0.75 * (3 + 0.6 + 0.8) + 0.25 * 3) / (0.75 * 5 + 0.25 * 4)
    recall = (0.75 * (3 + 0.6) + 0.25 * (3 + 0.8)) / (0.75 * 5 + 0.25 * 4)
    mean = precision * recall / (0.85 * precision + 0.15 * recall)
    assert meteor_of_sums(row) == pytest.approx(mean * (1 - 0.6 * (3 / 8) ** 0.2))
    assert meteor_of_sums(np.stack([row, np.zeros(23)]))[1] == 0
