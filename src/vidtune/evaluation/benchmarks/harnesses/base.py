"""How a public harness asks benchmarks: what its tasks say, and how it hands them to a kind of model.

The rules are facts from its sources; each part names the file and the commit that it is from, and the protocol of a run
holds these names (`Protocol.harness`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vidtune.errors import UserError
from vidtune.evaluation.protocol import merged
from vidtune.spelling import suggestion

if TYPE_CHECKING:
    from vidtune.evaluation.benchmarks.base import Benchmark

HARNESS = "harness"
"""Protocol rule that names a harness; its name stands for all rules of it."""
VIDEO = "video"
"""Stream of which a model that is shown frames gets only some."""


@dataclass(frozen=True)
class Task:
    """How a harness asks one benchmark.

    Args:
        source: files of the harness that the rules are from, each with ``@`` and a commit.
        rules: changes to the protocol of the benchmark.
        frames: rules of `models.frames.FrameRule`, for models that are shown frames.
        record: name of the benchmark that has these rules already, with the harness's own files and scoring; empty:
            there is none.
        sets_tokens: the number of new tokens is the task's; else a wrapper that has one of its own takes that.
        note: what is not reproduced; empty: nothing is known.
    """

    source: str
    rules: Mapping[str, Any] = field(default_factory=dict)
    frames: Mapping[str, Any] = field(default_factory=dict)
    record: str = ""
    sets_tokens: bool = True
    note: str = ""


@dataclass(frozen=True)
class Wrapper:
    """How a harness hands questions to one kind of model.

    Args:
        source: see `Task`.
        streams: stream -> changes to the protocol; it cannot read media of other streams.
        tokens: number of new tokens where a task sets none; None: that of the task's rules.
        unlike: stream -> why what it gives a model cannot be given here.
        note: what it does besides; empty: nothing is known.
    """

    source: str
    streams: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tokens: int | None = None
    unlike: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Harness:
    """One harness at one version.

    Args:
        tasks: benchmark -> how it is asked.
        wrappers: system, or kind of model -> how it gets the questions; another kind keeps its own conversation.
    """

    name: str
    version: str
    repository: str
    tasks: Mapping[str, Task]
    wrappers: Mapping[str, Wrapper]

    def task(self, benchmark: "Benchmark") -> Task:
        """How it asks a benchmark, or a record of one. Raises UserError where it does not."""
        name = benchmark.record_of or benchmark.name
        if name not in self.tasks:
            raise UserError(
                f"{benchmark.name}: {self.name} {self.version} has no such task; it has: {', '.join(self.tasks)}"
            )
        return self.tasks[name]

    def rules(self, benchmark: "Benchmark", kind: str | None, framed: bool, named: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what it changes in the protocol of a benchmark, with the names of its sources.

        Args:
            kind: system, or kind of model; None: not known.
            framed: the model is shown frames (`models.frames.FrameRule`).
            named: rules that the user names beside the harness.

        Raises:
            UserError: it does not ask this benchmark, cannot ask this kind of model about such media, or gives it
                frames that are not known or cannot be given here, and the user names none.
        """
        task, wrapper = self.task(benchmark), self.wrappers.get(kind or "")
        stream = benchmark.protocol(prompt_format="").stream
        sources = {"name": self.name, "version": self.version, "task": task.source}
        notes = [task.note, "" if wrapper is None else wrapper.note]
        found = dict(task.rules)
        if framed and task.frames:
            found = merged(found, {"preprocessing": task.frames})
        if framed and (why := self._unlike(task, wrapper, kind, stream)):
            if stream != VIDEO or not _names_frames(named):
                frames = "name its frames, as --protocol preprocessing.num_frames=32, or " if stream == VIDEO else ""
                raise UserError(f"{benchmark.name}: {self.name}: {why}; {frames}ask it without the harness")
            notes.append(f"{why}; the frames are those that the command names")
        elif wrapper is not None:
            if stream not in wrapper.streams:
                raise UserError(
                    f"{benchmark.name}: {self.name} hands {kind} no {stream} ({wrapper.source}); it never asks it this"
                )
            found = merged(found, wrapper.streams[stream])
            if wrapper.tokens is not None and not task.sets_tokens:
                found = merged(found, {"generation": {"max_new_tokens": wrapper.tokens}})
        if wrapper is not None:
            sources["model"] = wrapper.source
        if any(notes):
            sources["note"] = "; ".join(note for note in notes if note)
        return {**found, HARNESS: sources}

    def _unlike(self, task: Task, wrapper: Wrapper | None, kind: str | None, stream: str) -> str:
        """Why what it gives a model that is shown frames cannot be given here; empty: it can."""
        if wrapper is not None:
            return f"{wrapper.unlike[stream]} ({wrapper.source})" if stream in wrapper.unlike else ""
        known = stream != VIDEO or bool(task.frames)
        return "" if known else f"which frames it gives {kind or 'such a model'} is not known here"


def _names_frames(rules: Mapping[str, Any]) -> bool:
    """Whether changes to a protocol say how many frames are read."""
    frames = rules.get("preprocessing")
    return bool(rules.get("reading")) or (isinstance(frames, Mapping) and "num_frames" in frames)


def without_harness(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns changes to a protocol without the name of a harness."""
    return {key: value for key, value in overrides.items() if key != HARNESS}


def known_harness(name: Any, known: Mapping[str, Harness]) -> Harness:
    """Returns a harness by its name. Raises UserError where there is none; suggests the nearest."""
    if not isinstance(name, str) or name not in known:
        raise UserError(f"protocol overrides: harness: {name!r} is not known; {suggestion(str(name), known)}")
    return known[name]
