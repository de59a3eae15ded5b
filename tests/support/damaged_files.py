"""Cases of ``tests/fuzz`` in a process of their own."""

import sys
from pathlib import Path


def run_cases(folder: str, cases: dict[str, list[int]]) -> int:
    """Damage files and run commands on them; print how each ended. Returns the number of those that failed."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))
    from fuzz import Fuzz

    wrong = 0
    with Fuzz(Path(folder)) as fuzz:
        for name, numbers in cases.items():
            for number in numbers:
                case, ended = fuzz.case(name, number)
                bad = case.outcome not in ("ok", "named")
                print(case, *([ended.printed] if bad else []), sep="\n")
                wrong += bad
    return wrong
