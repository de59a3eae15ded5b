"""Scores of several runs as one table, in Markdown or LaTeX: a row per model, a column per number of a benchmark."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidtune.evaluation.published import PublishedScore, differs_from, published_beside, shares
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.scores.comparison import test_set_of
from vidtune.evaluation.scores.score import NamedValue, Score
from vidtune.evaluation.scores.score_file import read_current_score
from vidtune.evaluation.scores.score_lines import counts_text
from vidtune.evaluation.scores.scoring import source_for
from vidtune.registry import BENCHMARKS

Column = tuple[str, str | None, str]
"""Test set, question type (None: all), name of the number."""


@dataclass(frozen=True)
class Cell:
    """A value with its interval, in the unit of the table: shares in percent."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ScoreTable:
    """Rows of scores.

    Args:
        columns: in the order of the runs' scores.
        rows: (name of the row, column -> cell).
        notes: what a reader has to know of the rows, one line each.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, Mapping[Column, Cell]], ...]
    notes: tuple[str, ...]


def score_table(runs: Sequence[RunFolder], judges: Sequence[str], types: bool, published: bool) -> ScoreTable:
    """The scores of runs; those of one model, under equal conditions, share a row.

    Args:
        judges: whose score is shown, one name for each run.
        types: also the numbers of each question type, where all questions have numbers together.
        published: with rows of published scores on the same test sets, and what the runs do differently.

    Raises:
        UserError: a run is not scored by its judge, or has got answers since.
    """
    scores = [read_current_score(run, judge) for run, judge in zip(runs, judges, strict=True)]
    rows: dict[str, dict[Column, Cell]] = {}
    columns: dict[Column, None] = {}
    notes = []
    for run, score in zip(runs, scores, strict=True):
        in_percent = shares(source_for(run, score.judge).metrics)
        cells = dict(_cells(run, score, types, in_percent))
        columns.update(dict.fromkeys(cells))
        name = _free(rows, _row_name(run), cells)
        rows.setdefault(name, {}).update(cells)
        notes.append(f"{name}, {run.info.benchmark}: {_conditions(score)}")
    if published:
        beside = list(_published(runs, scores, columns))
        for one, cells, lines in beside:
            name = _free(rows, f"{one.model} (published)", cells)
            rows.setdefault(name, {}).update(cells)
            notes.append(f"{name}, {one.benchmark}: {one.source} ({one.kind}){''.join(f'; {line}' for line in lines)}")
    return ScoreTable(tuple(columns), tuple(rows.items()), tuple(notes))


def _cells(run: RunFolder, score: Score, types: bool, in_percent: Collection[str]) -> Iterator[tuple[Column, Cell]]:
    for group in score.parts if types or score.overall is None else (score.overall,):
        for value in group.values:
            if (cell := _cell(value, 100.0 if value.name in in_percent else 1.0)) is not None:
                yield (test_set_of(run), group.type, value.name), cell


def _cell(value: NamedValue, scale: float) -> Cell | None:
    if value.official is None:
        return None
    found = value.official.scaled(scale)
    return Cell(found.value, found.low, found.high)


def _row_name(run: RunFolder) -> str:
    """The checkpoint, and what the model was not given."""
    place = Path(run.info.checkpoint.path)
    name = "/".join(place.parts[-2:]) if place.name == "final" else place.name
    reduced = [
        *(["blind"] if run.info.protocol.blind else []),
        *(f"without {one}" for one in run.info.protocol.without),
    ]
    return f"{name}{''.join(f', {what}' for what in reduced)}"


def _free(rows: Mapping[str, Mapping[Column, Cell]], name: str, cells: Mapping[Column, Cell]) -> str:
    """The name, with a number where its row has one of the cells already."""
    free, number = name, 2
    while set(rows.get(free, {})) & set(cells):
        free, number = f"{name} #{number}", number + 1
    return free


def _conditions(score: Score) -> str:
    by = "metrics" if score.measured else f"judge {score.judge}"
    parts = [score.overall] if score.overall is not None else list(score.groups)
    left_out = "; ".join(filter(None, map(counts_text, parts)))
    questions = sum(part.questions for part in parts)
    return (
        f"{by}, protocol {score.protocol_hash}, {questions} questions{f', not counted: {left_out}' if left_out else ''}"
    )


def _published(
    runs: Sequence[RunFolder], scores: Sequence[Score], columns: Mapping[Column, None]
) -> Iterator[tuple[PublishedScore, dict[Column, Cell], list[str]]]:
    """Yields each publication once, with what the first run of its test set does differently."""
    seen: set[str] = set()
    for run, score in zip(runs, scores, strict=True):
        if (test_set := test_set_of(run)) in seen:
            continue
        seen.add(test_set)
        for one in published_beside(run):
            cells = {
                column: Cell(value)
                for column in columns
                if column[0] == test_set and (value := one.value(column[2], column[1])) is not None
            }
            if cells:
                yield one, cells, list(differs_from(one, run, score))


def markdown(table: ScoreTable, intervals: bool = True) -> str:
    """The table in Markdown, with the notes below it."""
    head = ["", *map(_title, table.columns)]
    lines = [_markdown_row(head), "|" + " --- |" + " ---: |" * len(table.columns)]
    for name, cells in table.rows:
        lines.append(_markdown_row([name, *(_text(cells.get(column), intervals) for column in table.columns)]))
    notes = "".join(f"- {_escaped_markdown(note)}\n" for note in table.notes)
    return "\n".join(lines) + f"\n\n{notes}"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_escaped_markdown, cells)) + " |"


def _escaped_markdown(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "\\<").replace("*", "\\*").replace("_", "\\_")


def latex(table: ScoreTable, intervals: bool = True) -> str:
    """The table as a LaTeX ``tabular`` with rules of booktabs; notes are comments."""
    small: Callable[[str], str] = lambda text: rf" {{\scriptsize {text}}}"  # noqa: E731
    lines = [f"% {note}" for note in table.notes]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule"]
    lines += [" & ".join(["", *(_escaped_latex(_title(column)) for column in table.columns)]) + r" \\", r"\midrule"]
    for name, cells in table.rows:
        texts = [_text(cells.get(column), intervals, small, none="--") for column in table.columns]
        lines.append(" & ".join([_escaped_latex(name), *texts]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _escaped_latex(text: str) -> str:
    marks = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"}
    marks |= {">": r"\textgreater{}", "|": r"\textbar{}"} | {mark: f"\\{mark}" for mark in "&%$#_{}"}
    return "".join(marks.get(mark, mark) for mark in text)


def _title(column: Column) -> str:
    test_set, kind, name = column
    title = BENCHMARKS[test_set].title if test_set in BENCHMARKS else test_set
    return " ".join([title, *([kind] if kind is not None else []), name.replace("_", " ")])


def _text(
    cell: Cell | None, intervals: bool, small: Callable[[str], str] = lambda text: f" {text}", none: str = "–"
) -> str:
    if cell is None:
        return none
    digits = 2 if abs(cell.value) < 10 else 1
    if not intervals or cell.low is None or cell.high is None:
        return f"{cell.value:.{digits}f}"
    return f"{cell.value:.{digits}f}" + small(f"[{cell.low:.{digits}f}, {cell.high:.{digits}f}]")
