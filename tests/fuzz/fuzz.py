"""Damages files, many thousand of them, and counts how the commands that are given them end.

    python tests/fuzz/fuzz.py --count 10000 --out FOLDER            a long run (make fuzz)
    python tests/fuzz/fuzz.py --case media/17 --seed 0              one damaged file again, and what is printed

A case is named by its target and a number; with the seed it decides the file, the damage and the command.
"""

import argparse
import gc
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import reduce
from itertools import cycle
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["VIDTUNE_DECODED"] = "off"
os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
os.environ["TORCHDYNAMO_DISABLE"] = "1"
os.environ["PYTHONWARNINGS"] = "ignore"
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from batches import BATCHES, Batch, copied
from forked import GOOD, OUTCOMES, Ended, end_workers, preload, run_command, run_forked, share_workers
from mutations import damage
from targets import TARGETS, Target


@dataclass(frozen=True)
class Case:
    """One damaged file and how the command ended.

    Args:
        case: target and number, for ``--case``.
        file: the damaged file, from the folder of the command.
        damage: what was done to it.
        last: the last line that the command printed.
    """

    case: str
    seed: int
    file: str
    damage: str
    command: str
    outcome: str
    seconds: float
    last: str


class Outside:
    """Files that links lead to from the folder of a command. Whoever reads one of them is found out.

    Args:
        folder: for the files; emptied.
    """

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.folder = folder
        self._held: dict[Path, Path] = {}

    def hold(self, file: Path) -> Path:
        """Move a file here. Returns its new path."""
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"{len(self._held)}{file.suffix}"
        shutil.move(file, path)
        os.utime(path, (0, 1))  # the time of reading is noted where it is before that of writing
        self._held[path] = file
        return path

    def read(self) -> set[Path]:
        """Paths, as they were, of the files that were read since."""
        return {file for path, file in self._held.items() if path.stat().st_atime}


class Fuzz:
    """Whole files of all targets, and cases made of them.

    Args:
        folder: for files; a context manager, which empties it.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.seed = folder, seed
        self.place = folder / "case"
        self._built: set[str] = set()

    def __enter__(self) -> "Fuzz":
        preload()
        share_workers()
        gc.collect()
        gc.freeze()
        return self

    def __exit__(self, *_: object) -> None:
        end_workers()

    def cases(self, name: str, number: str | int) -> Iterator[tuple[Case, Ended]]:
        """One case of a target; or a batch, or the one file of it that the number behind a point names."""
        if name in TARGETS:
            yield self.case(name, int(number))
        else:
            batch, _, only = str(number).partition(".")
            yield from self.many(name, int(batch), int(only) if only else None)

    def case(self, name: str, number: int) -> tuple[Case, Ended]:
        """Damage one file of a target, run a command, and look how it ends."""
        target, chance = TARGETS[name], random.Random(f"{self.seed}/{name}/{number}")
        self._lay(name, target)
        file = chance.choice(target.files(self.place))
        words = command_of(target, file, self.place, chance)
        outside = Outside(self.folder / "outside")
        done = damage(file, chance, outside.hold)
        ended = run_command(words, self.place, file.name)
        if outside.read() and any(file.match(pattern) for pattern in target.inside):
            ended = Ended("outside", ended.printed, ended.seconds)
        if ended.outcome == "unnamed" and any(unit in ended.printed for unit in target.units):
            ended = Ended("named", ended.printed, ended.seconds)
        lines = ended.printed.strip().splitlines() or [""]
        found = Case(
            f"{name}/{number}",
            self.seed,
            str(file.relative_to(self.place)),
            done,
            " ".join(words),
            ended.outcome,
            round(ended.seconds, 2),
            lines[-1][:400],
        )
        return found, ended

    def many(self, name: str, number: int, only: int | None = None) -> Iterator[tuple[Case, Ended]]:
        """Damage many files and give them to one command, and one by one where that does not tell them apart.

        Args:
            only: number of the one file to take.
        """
        batch = BATCHES[name]
        self._lay(name, batch)
        sources, cases, copies = sorted((self.place / "sources").iterdir()), {}, []
        outside = Outside(self.folder / "outside")
        for one in range(batch.size) if only is None else [only]:
            chance = random.Random(f"{self.seed}/{name}/{number}/{one}")
            copy = copied(chance.choice(sources), self.place / "media", one)
            file = chance.choice(sorted(copy.iterdir())) if copy.is_dir() else copy
            done = damage(file, chance, outside.hold)
            copies.append(copy)
            command, path = " ".join(batch.command), str(file.relative_to(self.place))
            cases[copy.name] = Case(f"{name}/{number}.{one}", self.seed, path, done, command, "ok", 0.0, "")
        batch.finish(self.place, copies)
        ended = run_command(batch.command, self.place, "media/")
        listed = self.place / batch.refused
        lines = listed.read_text("utf-8", "replace").splitlines() if listed.is_file() else []
        told = ended.outcome in ("ok", "named", "unnamed") and (lines or ended.outcome == "ok")
        if not told and only is None:
            for one in range(batch.size):
                yield from self.many(name, number, one)
            return
        for copy, case in cases.items():
            found = [line for line in lines if re.search(rf"\b{re.escape(copy)}(?![\w.])", line)]
            outcome = outcome_of_line(found[0], Path(case.file).name) if found else "ok"
            if not told:
                outcome = (
                    "named" if ended.outcome == "unnamed" and Path(case.file).name in ended.printed else ended.outcome
                )
            if self.place / case.file in outside.read():
                outcome = "outside"
            seconds = round(ended.seconds / len(cases), 3)
            yield replace(case, outcome=outcome, seconds=seconds, last="".join(found)[:400]), ended

    def whole(self, name: str) -> Iterator[tuple[list[str], Ended]]:
        """Each command of a target, with files that are not damaged."""
        target = TARGETS[name]
        for number in range(len(target.commands)):
            self._lay(name, target)
            for file in target.files(self.place)[:1]:
                words = filled(target.commands[number], file, self.place)
                yield words, run_command(words, self.place, file.name)

    def _lay(self, name: str, target: Target | Batch) -> None:
        kept = self.folder / "whole" / name
        shutil.rmtree(self.place, ignore_errors=True)
        if name not in self._built:
            self.place.mkdir(parents=True)
            ended = run_forked(lambda: build(target, self.place), self.place, "")
            if ended.outcome != "ok":
                raise RuntimeError(f"{name}: {ended.printed}")
            shutil.copytree(self.place, kept, symlinks=True)
            self._built.add(name)
        else:
            shutil.copytree(kept, self.place, symlinks=True)


def build(target: Target | Batch, place: Path) -> int:
    target.build(place)
    return 0


def outcome_of_line(line: str, name: str) -> str:
    """How a file ended of which a line of a list tells."""
    if "more memory than the machine" in line:
        return "memory"
    return "named" if name in line else "unnamed"


def command_of(target: Target, file: Path, place: Path, chance: random.Random) -> list[str]:
    return filled(chance.choice(target.commands), file, place)


def filled(command: Sequence[str], file: Path, place: Path) -> list[str]:
    """The words of a command that names a medium or its kind, or the damaged file."""
    medium = next(iter(file.relative_to(place / "media").parts)) if (place / "media") in file.parents else ""
    kind = "image" if medium.startswith("photo") else "video"
    named = {"{medium}": medium, "{kind}": kind, "{name}": file.name, "{file}": str(file.relative_to(place))}
    return [reduce(lambda text, pair: text.replace(*pair), named.items(), word) for word in command]


def turns(names: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Targets in turn, each as often as its share says, with numbers that go on."""
    numbers: Counter[str] = Counter()
    round_ = [name for name in names for _ in range((TARGETS | BATCHES)[name].share)]
    random.Random(0).shuffle(round_)
    for name in cycle(round_):
        yield name, numbers[name]
        numbers[name] += 1


def main() -> int:
    parsed = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsed.add_argument("--count", type=int, default=10_000)
    parsed.add_argument("--seconds", type=float, default=1e9, help="Stop after so long.")
    parsed.add_argument("--seed", type=int, default=0)
    parsed.add_argument("--only", nargs="*", choices=sorted(TARGETS | BATCHES))
    parsed.add_argument("--case", help="TARGET/NUMBER")
    parsed.add_argument("--whole", action="store_true", help="Run every command on whole files.")
    parsed.add_argument("--out", type=Path, default=Path("fuzz"), help="Folder for failures.jsonl and counts.json.")
    options = parsed.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, Fuzz(Path(folder), options.seed) as fuzz:
        if options.case:
            for found, ended in fuzz.cases(*options.case.split("/")):
                print(json.dumps(asdict(found), indent=1), ended.printed, sep="\n")
            return 0
        if options.whole:
            return whole(fuzz, options.only or list(TARGETS))
        return long_run(fuzz, options)


def whole(fuzz: Fuzz, names: Sequence[str]) -> int:
    wrong = 0
    for name in names:
        expected = "named" if TARGETS[name].refused else "ok"
        for words, ended in fuzz.whole(name):
            print(f"{name:18s} {ended.outcome:9s} {ended.seconds:6.2f} s  {' '.join(words)}", flush=True)
            if ended.outcome != expected:
                wrong += 1
                print(ended.printed[-1500:])
    return wrong


def long_run(fuzz: Fuzz, options: argparse.Namespace) -> int:
    options.out.mkdir(parents=True, exist_ok=True)
    counts: dict[str, Counter[str]] = {name: Counter() for name in options.only or (*TARGETS, *BATCHES)}
    began, done, left_out = time.monotonic(), 0, set[str]()
    with (options.out / "failures.jsonl").open("w") as failures:
        for name, number in turns(list(counts)):
            if done >= options.count or time.monotonic() - began > options.seconds:
                break
            if name in left_out:
                continue
            try:
                for found, ended in fuzz.cases(name, number):
                    counts[name][found.outcome] += 1
                    done += 1
                    if found.outcome not in GOOD:
                        failures.write(json.dumps({**asdict(found), "printed": ended.printed[-6000:]}) + "\n")
                        failures.flush()
                    if done % 50 == 0:
                        show(counts, time.monotonic() - began, options)
            except RuntimeError as error:  # its whole files cannot be made
                print(f"{name} is left out: {error}", file=sys.stderr, flush=True)
                left_out.add(name)
    show(counts, time.monotonic() - began, options)
    return int(any(count[bad] for count in counts.values() for bad in OUTCOMES if bad not in GOOD))


def show(counts: dict[str, Counter[str]], seconds: float, options: argparse.Namespace) -> None:
    rows = [("", *OUTCOMES), *((name, *(str(count[one]) for one in OUTCOMES)) for name, count in counts.items())]
    total: Counter[str] = sum(counts.values(), Counter())
    rows.append(("all", *(str(total[one]) for one in OUTCOMES)))
    for row in rows:
        print(f"{row[0]:18s}" + "".join(f"{cell:>11s}" for cell in row[1:]))
    said = f"{total.total()} damaged files in {seconds:.0f} s, seed {options.seed}"
    print(f"{said}; failures: {options.out / 'failures.jsonl'}", flush=True)
    (options.out / "counts.json").write_text(
        json.dumps({name: dict(count) for name, count in counts.items()}, indent=1)
    )


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
