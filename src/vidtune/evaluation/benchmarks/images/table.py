"""Tables of test sets: tab-separated files with pictures in their cells, read as pandas reads them; sheets to upload.

A cell is None where pandas sees no value. A column of whole numbers alone holds numbers, as it does there.
"""

import csv
import io
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any
from xml.sax.saxutils import escape

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.test_set_files import text_and_bytes

NO_VALUE = frozenset(
    (
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"),
        *("NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    )
)
"""Texts that pandas 2 reads as no value."""
Cell = str | int | float | None


def read_table(path: Path) -> tuple[list[str], list[dict[str, Cell]], bytes]:
    """Returns the columns of a tab-separated file, its rows, and its content.

    Raises:
        UserError: the file cannot be read, is no UTF-8, has no row, a column twice, or a row of another length; names
            file and row.
    """
    text, content = text_and_bytes(path)
    csv.field_size_limit(sys.maxsize)
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True))
    except csv.Error as error:
        raise UserError(f"{path}: no table with tabs between its cells ({error})") from None
    columns = lines[0] if lines else []
    rows = [line for line in lines[1:] if line]
    if not rows or len(set(columns)) < len(columns):
        raise UserError(f"{path}: expected a line of column names, each once, and rows below it")
    wrong = next((place for place, row in enumerate(rows) if len(row) != len(columns)), None)
    if wrong is not None:
        raise UserError(f"{path}: row {wrong} has {len(rows[wrong])} cells, expected {len(columns)}")
    by_column = [_typed([row[place] for row in rows]) for place in range(len(columns))]
    return columns, [dict(zip(columns, cells, strict=True)) for cells in zip(*by_column, strict=True)], content


def _typed(cells: Sequence[str]) -> Sequence[Cell]:
    """A column as pandas types it: whole numbers, numbers, or texts."""
    values = [None if cell in NO_VALUE else cell for cell in cells]
    said = [value for value in values if value is not None]
    for kind in (int, float):
        if kind is int and len(said) < len(values):
            continue  # a column that lacks values holds no whole numbers there
        try:
            numbers: Iterator[int | float] = iter([kind(value) for value in said])
        except ValueError:
            continue
        return [None if value is None else next(numbers) for value in values] if said else values
    return values


def sheet(columns: Sequence[str], rows: Sequence[Mapping[str, Cell]], title: str = "Sheet1") -> bytes:
    """Returns a workbook (Office Open XML, .xlsx) with one sheet: a line of column names, and rows without numbers."""
    lines: list[list[Cell]] = [[*columns], *([row.get(name) for name in columns] for row in rows)]
    body = "".join(
        f'<row r="{number}">' + "".join(_cell(place, number, value) for place, value in enumerate(line)) + "</row>"
        for number, line in enumerate(lines, 1)
    )
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in _parts(escape(title, {'"': "&quot;"}), body).items():
            # One date for all files, so that equal answers give equal bytes.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text, zipfile.ZIP_DEFLATED)
    return found.getvalue()


def _cell(place: int, line: int, value: Any) -> str:
    if value is None:
        return ""
    name = f"{_letters(place)}{line}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'<c r="{name}"><v>{value}</v></c>'
    # XML holds no control characters.
    text = "".join(letter for letter in str(value) if letter >= " " or letter in "\t\n\r")
    return f'<c r="{name}" t="inlineStr"><is><t xml:space="preserve">{escape(text)}</t></is></c>'


def _letters(place: int) -> str:
    name = ""
    while place >= 0:
        name, place = ascii_uppercase[place % 26] + name, place // 26 - 1
    return name


def _parts(title: str, body: str) -> dict[str, str]:
    """Files of a workbook, by their names in it."""
    head = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
    office = "http://schemas.openxmlformats.org"
    main, package = f"{office}/spreadsheetml/2006/main", f"{office}/package/2006"
    documents = f"{office}/officeDocument/2006/relationships"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    return {
        "[Content_Types].xml": f'{head}<Types xmlns="{package}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{kind}.sheet.main+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{kind}.worksheet+xml"/></Types>',
        "_rels/.rels": f'{head}<Relationships xmlns="{package}/relationships"><Relationship Id="rId1" '
        f'Type="{documents}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'{head}<workbook xmlns="{main}" xmlns:r="{documents}"><sheets>'
        f'<sheet name="{title}" sheetId="1" r:id="rId1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'{head}<Relationships xmlns="{package}/relationships"><Relationship Id="rId1" '
        f'Type="{documents}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
        "xl/worksheets/sheet1.xml": f'{head}<worksheet xmlns="{main}"><sheetData>{body}</sheetData></worksheet>',
    }
