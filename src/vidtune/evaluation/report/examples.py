"""Examples of a run as one PNG: frames, question, answer, reference, and what another run answered."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vidtune.evaluation.outcome import Outcome
from vidtune.evaluation.question import Prediction
from vidtune.evaluation.report.pictures import WIDEST
from vidtune.evaluation.report.reading import Strip, read_all
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.shown_media import FILE_ALONE
from vidtune.evaluation.scores.comparison import StoredRun
from vidtune.machine.files import atomic_file

FRAMES = 8
_MARGIN, _LINE, _TEXT_SIZE = 16, 28, 20
_PAPER, _INK, _PALE = (255, 255, 255), (25, 25, 25), (110, 110, 110)
_SHADES = {"right": (15, 120, 50), "wrong": (180, 30, 30)}


def draw_examples(run: Path, out: Path, *, judge: str, beside: tuple[str, Path] | None = None) -> Path | None:
    """Draw one question of each type, the first of the test set about a video that no other example shows.

    So the examples are not chosen by their answers.

    Args:
        run: folder of a run that a judge has judged.
        out: PNG file to write.
        beside: name and folder of a run of the same questions, whose answers are shown too.

    Returns:
        ``out``; None where no medium of the run can be shown.
    """
    stored = StoredRun.read(RunFolder(run), judge)
    others = {} if beside is None else {one.index: one.pred for one in RunFolder(beside[1]).predictions()}
    verdicts = {one.index: one for one in stored.outcomes}
    rows = []
    for one, strip in _shown(stored):
        other = None if beside is None or one.index not in others else f"{beside[0]}: {others[one.index]}"
        rows.append(_row(one, strip, verdicts.get(one.index), other))
    if not rows:
        return None
    page = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), _PAPER)
    top = 0
    for row in rows:
        page.paste(row, (0, top))
        top += row.height
    content = io.BytesIO()
    page.save(content, "PNG", optimize=True)
    with atomic_file(out) as part:
        part.write_bytes(content.getvalue())
    return out


def _shown(stored: StoredRun) -> list[tuple[Prediction, Image.Image]]:
    """The examples with their frames, in the order of the test set."""
    folder, media = Path(stored.run.info.data.folder), {one.index: one.media for one in stored.run.plan()}
    left = sorted((one for one in stored.predictions if one.error is None), key=lambda one: one.index)
    found: list[tuple[Prediction, Image.Image]] = []
    while left:
        tried = _one_of_each_type(left)
        jobs = [Strip(folder, one.file, media.get(one.index, FILE_ALONE), FRAMES) for one in tried]
        read = zip(tried, read_all(jobs), strict=True)
        found += [(one, Image.fromarray(strip.values)) for one, strip in read if strip.values is not None]
        types, videos = {one.type for one, _ in found}, {one.video for one in tried}
        left = [one for one in left if one.type not in types and one.video not in videos]
    return sorted(found, key=lambda pair: pair[0].index)


def _one_of_each_type(predictions: Sequence[Prediction]) -> list[Prediction]:
    """The first of each type, about a video that no other of them is about."""
    found: dict[str | None, Prediction] = {}
    videos: set[str] = set()
    for one in predictions:
        if one.type not in found and one.video not in videos:
            found[one.type] = one
            videos.add(one.video)
    return list(found.values())


def _row(one: Prediction, strip: Image.Image, outcome: Outcome | None, other: str | None) -> Image.Image:
    row = Image.new("RGB", (WIDEST + 2 * _MARGIN, strip.height + 2 * _LINE + 2 * _MARGIN), _PAPER)
    row.paste(strip, (_MARGIN, _MARGIN))
    pen, font = ImageDraw.Draw(row), ImageFont.load_default(_TEXT_SIZE)
    first, second = _MARGIN + strip.height + 4, _MARGIN + strip.height + 4 + _LINE
    verdict = None if outcome is None else outcome.verdict
    pen.text((_MARGIN, first), one.question, _INK, font)
    pen.text((_MARGIN, second), one.pred, _SHADES.get(str(verdict), _INK), font)
    told = f"reference: {one.answer}" + ("" if other is None else f"    {other}")
    pen.text((_MARGIN + WIDEST // 2, second), told, _PALE, font)
    return row
