"""A few damaged files of some kinds, given to the commands that read them. `make fuzz` takes many thousand."""

from pathlib import Path

from launched import Launcher, printed

CASES = {"annotations": [0, 1, 2], "features": [0, 1, 2, 3], "native": [0, 1, 2]}


def test_what_is_wrong_with_a_damaged_file_is_said_in_one_line_that_names_it(
    launcher: Launcher, tmp_path: Path
) -> None:
    out = tmp_path / "printed"
    assert launcher.call("damaged_files:run_cases", out, str(tmp_path), CASES).exit_codes() == [0], printed(out)
