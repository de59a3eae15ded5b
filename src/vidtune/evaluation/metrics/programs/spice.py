"""SPICE of captions (Anderson et al., arXiv:1607.08822), computed by the published Java program.

The program turns captions into scene graphs and gives each item an F value; the value of a corpus is their mean. It
needs a parser with its models, which the package pycocoevalcap downloads on demand; here nothing is downloaded.
"""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidtune.errors import ForeignFileError, UserError
from vidtune.evaluation.metrics.base import MetricValues, check_pairs
from vidtune.evaluation.metrics.programs.java import SPICE_JAR, UTF8, java_problem, java_program
from vidtune.foreign.documents import read_json
from vidtune.foreign.files import reading

PARSER = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
"""Files that the program needs in ``lib`` beside it."""
MEMORY = "-Xmx8G"


def spice_problem() -> str | None:
    """Returns why SPICE cannot run here, and what to install; None: it can run."""
    problem = java_problem(SPICE_JAR)
    if problem is not None:
        return problem
    libraries = java_program(SPICE_JAR, "SPICE")[1].parent / "lib"
    lacking = [name for name in PARSER if not (libraries / name).is_file()]
    if not lacking:
        return None
    return (
        f"{' and '.join(lacking)} not in {libraries}: put them there, or let pycocoevalcap download them: python -c "
        "'from pycocoevalcap.spice.get_stanford_models import get_stanford_models as get; get()'"
    )


def spice(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> MetricValues:
    """Returns SPICE of captions. A CaptionMetric.

    Raises:
        UserError: the program is not installed, ended or gave no value for an item; the message quotes it.
        ValueError: an item without reference, or lists of different length.
    """
    check_pairs(references, predictions)
    if not predictions:
        return MetricValues.mean([])
    java, jar = java_program(SPICE_JAR, "SPICE")
    items = [
        {"image_id": number, "test": prediction, "refs": list(texts)}
        for number, (texts, prediction) in enumerate(zip(references, predictions, strict=True))
    ]
    with tempfile.TemporaryDirectory() as folder:
        asked, said = Path(folder) / "captions.json", Path(folder) / "scores.json"
        asked.write_text(json.dumps(items))
        command = [java, MEMORY, UTF8, "-jar", str(jar), str(asked), "-out", str(said), "-subset", "-silent"]
        done = subprocess.run(command, capture_output=True, cwd=jar.parent, check=False)
        try:
            with reading(said):
                values = _read(read_json(said), len(items))
        except ForeignFileError:
            lines = done.stderr.decode(errors="replace").strip().split("\n")
            cause = next((line.strip() for line in lines if "xception" in line or "rror" in line), lines[-1].strip())
            code = f"exit code {done.returncode}"
            raise UserError(f"SPICE: the Java program gave no scores ({code}): {cause[:300]}") from None
    return MetricValues.mean(values)


def _read(records: Any, count: int) -> list[float]:
    """The F value of each item, in the order of the items.

    Raises:
        ValueError: not one value per item.
    """
    found = {record["image_id"]: float(record["scores"]["All"]["f"]) for record in records}
    if sorted(found) != list(range(count)):
        raise ValueError(f"{len(found)} values for {count} items")
    return [found[number] for number in range(count)]
