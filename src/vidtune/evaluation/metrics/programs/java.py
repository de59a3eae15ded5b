"""The published Java programs, as the package pycocoevalcap carries them."""

import importlib.util
import shutil
from pathlib import Path

from vidtune.errors import UserError

METEOR_JAR = "meteor/meteor-1.5.jar"
SPICE_JAR = "spice/spice-1.0.jar"
TOKENIZER_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"
UTF8 = "-Dfile.encoding=UTF-8"  # or the locale would decide


def java_problem(jar: str) -> str | None:
    """Returns why this program cannot run here, and what to install; None: it can run."""
    if _jar(jar) is None:
        return "the package pycocoevalcap is not installed: pip install 'vidtune[meteor]'"
    if shutil.which("java") is None:
        return "Java is not installed, or not on the PATH: install a Java runtime, 8 or later"
    return None


def java_program(jar: str, purpose: str) -> tuple[str, Path]:
    """Returns the paths of Java and of the jar file.

    Args:
        purpose: what needs the program, for the error message.

    Raises:
        UserError: one of them is not installed.
    """
    problem = java_problem(jar)
    java, path = shutil.which("java"), _jar(jar)
    if problem or java is None or path is None:
        raise UserError(f"{purpose}: {problem}")
    return java, path


def _jar(jar: str) -> Path | None:
    spec = importlib.util.find_spec("pycocoevalcap")
    folders = (spec.submodule_search_locations if spec else None) or []
    return next((path for folder in folders if (path := Path(folder) / jar).is_file()), None)
