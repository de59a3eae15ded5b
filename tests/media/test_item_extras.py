"""Preprocessing that gives extras beside the values, and reads those of the annotation."""

from pathlib import Path

import numpy as np
import pytest
from made_up_preprocessing import TimedRows

from vidtune.media.pool import LoadJob, MediaPool
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "a.rows").write_text(" ".join(map(str, range(12))))
    return str(tmp_path / "a.rows")


@pytest.mark.parametrize("workers", [0, 1])
def test_extras_come_back_with_the_values(workers: int, path: str) -> None:
    steps = TimedRows()
    jobs = [
        LoadJob(path, steps),  # type: ignore[arg-type]
        LoadJob(path, steps, extras=(("shift", 10.0), ("boxes", ((1.0, 2.0), (3.0, 4.0))))),  # type: ignore[arg-type]
        LoadJob("/nowhere.rows", steps, extras=(("shift", 1.0),)),  # type: ignore[arg-type]
    ]
    with MediaPool(workers, 60.0) as pool:
        plain, shifted, absent = pool.load(jobs)
    assert plain.array is not None and plain.array.tolist() == np.arange(12).reshape(4, 3).tolist()
    assert plain.extras is not None and {name: extra.tolist() for name, extra in plain.extras.items()} == {
        "seconds": [0, 3, 6, 9]
    }
    assert shifted.extras is not None and {name: extra.tolist() for name, extra in shifted.extras.items()} == {
        "seconds": [10, 13, 16, 19],
        "shift": 10,
        "boxes": [[1, 2], [3, 4]],
    }
    assert shifted.nbytes == 12 * 4 + 4 * 4 + 4 + 4 * 4 and shifted.second is None
    assert absent.error is not None and absent.extras is None and absent.array is None


def test_files_are_shared_by_items_whose_preprocessing_reads_no_extras() -> None:
    one, other = (LoadJob("a.png", ImagePreprocessing(), extras=(("shift", number),)) for number in (1.0, 2.0))
    assert one == other and one.extras == ()
    kept = LoadJob("a.rows", TimedRows(), extras=(("shift", 1.0),))  # type: ignore[arg-type]
    assert kept.extras == (("shift", 1.0),)
