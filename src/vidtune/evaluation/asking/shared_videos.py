"""The videos of a run, shared between the processes that ask about them: each video is asked about by one of them.

A process holds the lock of a video from before its first question is asked until its last answer is stored. So no
question is asked twice, and the videos of a process that was killed are free at once, for the others or for the next
call. Every process begins with its own share, every n-th video; one that is done takes over what is left of the others.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from vidtune.evaluation.question import Question
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.machine.locks import NumberedLocks
from vidtune.machine.records import RecordFollower

VIDEO_LOCKS = ".videos.locks"
LOOK_AGAIN_SECONDS = 0.2


@dataclass(frozen=True)
class Session:
    """How one process goes on with a run.

    Args:
        rank, ranks: this process, from 0, and how many ask the questions of the run.
        retry_failed: ask questions again that ended in an error.
        other_versions: go on with a run that other versions of the software began; the run and its score then say so.
        progress: show how far it is, on standard error.
    """

    rank: int = 0
    ranks: int = 1
    retry_failed: bool = False
    other_versions: bool = False
    progress: bool = True


ALONE = Session()
"""One process asks everything that was not asked before."""


class SharedVideos:
    """The videos of a run that one process asks about, while others may ask about the others.

    Args:
        videos: questions of each video of the run, the same in every process, answered or not.
        done: returns the questions that were asked before.

    Attributes:
        asked: number of questions that this process has asked.
        left: number of questions that nobody has asked, as far as is known here.
    """

    def __init__(
        self,
        run: RunFolder,
        videos: Sequence[Sequence[Question]],
        done: Callable[[], Collection[int]],
        session: Session,
    ) -> None:
        self._videos = videos
        self.asked = 0
        self._run, self._session = run, session
        self._locks = NumberedLocks(run.path / VIDEO_LOCKS)
        self._followed: dict[str, RecordFollower] = {}
        self._place = {question.index: place for place, group in enumerate(videos) for question in group}
        self._held: set[int] = set()
        self._looked = 0.0
        for follower in self._followers():
            follower.new_records()  # these are judged by `done`; what comes later counts as asked
        known = done()
        self._open = [{question.index for question in group if question.index not in known} for group in videos]
        self.left = sum(map(len, self._open))

    def rounds(self) -> Iterator[Iterator[Sequence[Question]]]:
        """Yields what is asked in one go: the questions of one video after the other."""
        rank, ranks = self._session.rank, self._session.ranks
        if not self.left:
            return
        yield self._taken(range(rank, len(self._videos), ranks))
        while self._look_after_round():
            unfinished = [place for place, left in enumerate(self._open) if left]
            at_once = max(1, len(unfinished) // (2 * ranks))
            taken = list(self._taken(reversed(unfinished), at_once))
            if taken:
                yield iter(taken)
            else:
                time.sleep(LOOK_AGAIN_SECONDS)  # the others answer the last ones, or die

    def stored(self, question: int) -> None:
        """Note that the answer to a question is stored."""
        self.asked += 1
        self._close(question)
        if time.monotonic() - self._looked >= LOOK_AGAIN_SECONDS:
            self._look()

    def close(self) -> None:
        """Leave what is not asked to the others."""
        self._locks.close()

    def _look_after_round(self) -> int:
        """Number of questions that are left; what this process has asked and not got an answer to is given up."""
        for place in list(self._held):
            self.left -= len(self._open[place])
            self._open[place].clear()
            self._release(place)
        return self._look()

    def _taken(self, places: Iterable[int], most: int | None = None) -> Iterator[Sequence[Question]]:
        """Take videos, and yield those of their questions that nobody has asked."""
        taken = 0
        for place in places:
            if taken == most:
                return
            if place in self._held or not self._open[place] or not self._locks.take(place):
                continue
            self._held.add(place)
            self._look()  # another process may have answered them before it gave the lock back
            group = [question for question in self._videos[place] if question.index in self._open[place]]
            if group:
                taken += 1
                yield group
            elif place in self._held:
                self._release(place)

    def _look(self) -> int:
        """Read what other processes have answered. Returns the number of questions that are left."""
        self._looked = time.monotonic()
        for follower in self._followers():
            for record in follower.new_records():
                if isinstance(index := record.get("index"), int):
                    self._close(index)
        return self.left

    def _close(self, question: int) -> None:
        place = self._place.get(question)
        if place is None or question not in self._open[place]:
            return
        self._open[place].discard(question)
        self.left -= 1
        if not self._open[place] and place in self._held:
            self._release(place)

    def _release(self, place: int) -> None:
        self._held.discard(place)
        self._locks.release(place)

    def _followers(self) -> Iterator[RecordFollower]:
        """Readers of all files of answers, also of those that have come since."""
        for path in sorted(self._run.path.glob("predictions*.jsonl")):
            yield self._followed.setdefault(path.name, RecordFollower(path))
