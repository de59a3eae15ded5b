"""One self-contained HTML page about evaluation runs: scores with intervals, plots, and samples to look at.

The page needs no network and loads nothing. Every text from outside is escaped, or is JSON that only the script of the
page reads and writes as text; a browser runs that script and no other.
"""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vidtune import __version__
from vidtune.errors import UserError
from vidtune.evaluation.report import svg
from vidtune.evaluation.report.charts import counted
from vidtune.evaluation.report.run_group import LISTED_PROBLEMS, RunGroup, group_of
from vidtune.evaluation.report.samples import Limits, json_for_page
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.scores.agreement_lines import kappa_text, said_text
from vidtune.evaluation.scores.comparison import test_set_of
from vidtune.evaluation.scores.comparison_lines import shortened
from vidtune.evaluation.scores.score import METRICS
from vidtune.evaluation.scores.score_lines import answers_text, counts_text, fragile_text
from vidtune.machine.files import write_text_atomically

TEMPLATE, STYLE, SCRIPT = "report.html", "report.css", "report.js"


def build_report(
    runs: Sequence[Path],
    out: Path,
    *,
    judge: str | None = None,
    title: str = "Evaluation report",
    limits: Limits | None = None,
) -> Path:
    """Write the page.

    Args:
        runs: folders of scored runs; those of one test set are shown together.
        out: HTML file to write.
        judge: judge whose verdicts the samples and comparisons show; None: the one that scored most of the runs.
        limits: how much of each test set is shown; the scores count every question. None: the default.

    Returns:
        ``out``.

    Raises:
        UserError: no run is given, or one is not scored or has got answers since.
    """
    style, script = (_template(name) for name in (STYLE, SCRIPT))
    page = (
        _environment()
        .get_template(TEMPLATE)
        .render(
            title=title,
            groups=_groups(runs, judge, limits or Limits()),
            version=__version__,
            style=Markup(style),
            script=Markup(script),
            style_hash=_hash(style),
            script_hash=_hash(script),
        )
    )
    # A name of a file may hold bytes that are no text.
    write_text_atomically(Path(out), page.encode("utf-8", "replace").decode("utf-8"))
    return Path(out)


def _groups(runs: Sequence[Path], judge: str | None, limits: Limits) -> list[RunGroup]:
    """The runs of each test set, in the order in which they are given.

    Raises:
        UserError: no run is given, or one is not scored or has got answers since.
    """
    if not runs:
        raise UserError("a report needs at least one run folder")
    folders = [RunFolder(path) for path in runs]
    for run in folders:
        wanted = METRICS if METRICS in run.judges() else judge
        if not run.judges() or (wanted is not None and wanted not in run.judges()):
            raise UserError(f"{run.path}: not scored by {wanted or 'any judge'}; judge the run first")
    labels = _labels([run.path for run in folders])
    grouped: dict[tuple[str, str], list[int]] = {}
    for number, run in enumerate(folders):
        grouped.setdefault((test_set_of(run), run.info.data.fingerprint), []).append(number)
    return [
        group_of([folders[n] for n in numbers], [labels[n] for n in numbers], judge, limits)
        for numbers in grouped.values()
    ]


def _environment() -> Environment:
    loader = PackageLoader("vidtune.evaluation.report")
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, loader=loader
    )
    environment.globals.update(
        counts=counts_text,
        fragile_text=fragile_text,
        among=answers_text,
        counted=counted,
        kappa=kappa_text,
        said=said_text,
        shortened=shortened,
        thousands="{:,}".format,
        letter=svg.letter,
        colour=svg.colour,
        lanes=svg.lanes,
        ticks=svg.ticks,
        curve=svg.curve,
        axis_of=svg.axis_of,
        axis_around_zero=svg.axis_around_zero,
        listed_problems=LISTED_PROBLEMS,
        data=lambda samples: Markup(json_for_page(samples.data)),
    )
    return environment


def _template(name: str) -> str:
    return resources.files("vidtune.evaluation.report").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """How a content security policy names a style sheet or script of the page."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _labels(paths: Sequence[Path]) -> list[str]:
    """Names of runs: for each path the shortest end that no other path has."""
    parts = [path.resolve().parts for path in paths]
    labels = []
    for own in parts:
        length = next((n for n in range(1, len(own) + 1) if sum(p[-n:] == own[-n:] for p in parts) == 1), len(own))
        labels.append("/".join(own[-length:]))
    return labels
