"""The world of events as a data set: mp4 files with sound, training conversations, a test set of timed annotations.

Training annotations are lists of {"id", "source", "video", "conversations", "meta"}: ``meta`` holds the clip's duration
and the moment of every mark in the texts, and the media file is ``<id>.mp4``. The test set is one JSON object,
{id: {"duration", "timestamps", "sentences"}}, beside ``videos/``. Both as published with arXiv:2411.19772.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

from vidtune.data.writing.tokenizer import train_tokenizer
from vidtune.world.event_questions import Turn, ask_in_order, ask_when_and_what, marks, tell_all, tell_each
from vidtune.world.event_render import write_event_video
from vidtune.world.events import SENSES, SLOT_SECONDS, EventClip, make_event_clip
from vidtune.world.layout import Json, RenderProgress, file_name, write_world

EVENT_TEST_SET = Path("eval/events")
_TEST_SETS = {"test": EVENT_TEST_SET, "choice": Path("eval/choice")}
"""Split -> folder of its test set; settings are chosen on "choice", and "test" is looked at once."""
PERCEIVED = {sense: f"sft/{sense}.json" for sense in SENSES}
BOUNDARY_PERCEPTION = "sft/boundary_perception.json"
INSTRUCTION_TUNING = "sft/instruction_tuning.json"
_DENSE_EVERY = 5


@dataclass(frozen=True)
class EventWorldSpec:
    """Size of a world of events and format of its files.

    Args:
        seed: seed of all clips and questions.
        videos: number of training clips.
        test_videos: number of held-out clips.
        choice_videos: number of further held-out clips, on which settings are chosen.
        slots: number of slots in a clip, 5.12 seconds each.
        frames: number of frames in a slot.
        size: side of the frame in pixels.
    """

    seed: int = 0
    videos: int = 1600
    test_videos: int = 60
    choice_videos: int = 60
    slots: int = 5
    frames: int = 4
    size: int = 48

    @property
    def fps(self) -> Fraction:
        """Frames per second."""
        return self.frames / Fraction(str(SLOT_SECONDS))

    def clip(self, split: str, index: int) -> EventClip:
        """Returns clip number ``index`` of a split, "train", "test" or "choice"."""
        return make_event_clip(self.seed, split, index, self.slots)

    def clips(self, split: str) -> Iterator[tuple[str, EventClip]]:
        """Yields the id and the clip of all clips of a split."""
        counts = {"train": self.videos, "test": self.test_videos, "choice": self.choice_videos}
        for index in range(counts[split]):
            yield file_name(split, index), self.clip(split, index)


def build_event_world(
    out: Path,
    spec: EventWorldSpec,
    texts: Sequence[str] = (),
    special: Sequence[str] = (),
    *,
    workers: int | None = None,
    progress: RenderProgress | None = None,
) -> None:
    """Write the world into a folder, see `write_world`.

    Args:
        texts: strings that the tokenizer is trained on besides the annotations, such as the text of a prompt.
        special: texts that are special tokens of the tokenizer.
        workers: number of processes that render; None: one for each core.
    """
    training = {
        **{file: list(_perceived(spec, sense)) for sense, file in PERCEIVED.items()},
        BOUNDARY_PERCEPTION: list(_boundary_perception(spec)),
        INSTRUCTION_TUNING: list(_instruction_tuning(spec)),
    }
    tests = {
        str(folder / "annotations.json"): {id_: _annotation(clip) for id_, clip in spec.clips(split)}
        for split, folder in _TEST_SETS.items()
    }
    truth = {split: {id_: asdict(c) for id_, c in spec.clips(split)} for split in ("train", *_TEST_SETS)}
    write_world(
        out,
        spec,
        files=list(_files(out, spec)),
        write=partial(_write, spec),
        written=training | tests | {"truth.json": truth},
        tokenizer=partial(train_tokenizer, _training_texts(training, texts), special=special, split_digits=True),
        workers=workers,
        progress=progress,
    )


def _files(out: Path, spec: EventWorldSpec) -> Iterator[tuple[Path, EventClip]]:
    for split, folder in (("train", out), *((split, out / folder) for split, folder in _TEST_SETS.items())):
        for id_, clip in spec.clips(split):
            yield folder / "videos" / f"{id_}.mp4", clip


def _write(spec: EventWorldSpec, clip: EventClip, path: Path) -> None:
    write_event_video(clip, path, spec.fps, spec.size)


def _perceived(spec: EventWorldSpec, sense: str) -> Iterator[Json]:
    """What one sense perceives, each in a sentence of its own: teaches an encoder to tell what it is, and when."""
    for id_, clip in spec.clips("train"):
        if turns := tell_each(clip, sense):
            yield _sample(id_, clip, turns)


def _boundary_perception(spec: EventWorldSpec) -> Iterator[Json]:
    """Every fifth clip: all its events in one turn; the others: several questions about times and events."""
    for number, (id_, clip) in enumerate(spec.clips("train")):
        dense = number % _DENSE_EVERY == 0
        turns = tell_all(clip) if dense else ask_when_and_what(clip, _dice(spec, "boundary", id_))
        yield _sample(id_, clip, turns)


def _instruction_tuning(spec: EventWorldSpec) -> Iterator[Json]:
    """One third each: all events; times and events; number and order of the events."""
    for number, (id_, clip) in enumerate(spec.clips("train")):
        dice = _dice(spec, "instruction", id_)
        if number % 3 == 0:
            turns = tell_all(clip)
        else:
            turns = ask_when_and_what(clip, dice) if number % 3 == 1 else ask_in_order(clip, dice)
        yield _sample(id_, clip, turns)


def _dice(spec: EventWorldSpec, kind: str, id_: str) -> random.Random:
    return random.Random(f"{spec.seed} {kind} {id_}")


def _sample(id_: str, clip: EventClip, turns: Sequence[Turn]) -> Json:
    conversation = []
    for question, answer in turns:
        conversation += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    told = " ".join(turn["value"] for turn in conversation)
    tokens = {mark: moment for mark, moment in marks(clip).items() if mark in told}
    return {
        "id": id_,
        "source": "events",
        "video": f"{id_}.mp4",
        "conversations": conversation,
        "meta": {"duration": clip.duration, "token": tokens},
    }


def _annotation(clip: EventClip) -> Json:
    return {
        "duration": clip.duration,
        "timestamps": [[event.start, event.end] for event in clip.events],
        "sentences": [event.sentence for event in clip.events],
    }


def _training_texts(training: dict[str, list[Json]], texts: Sequence[str]) -> Iterator[str]:
    """Texts as a tokenizer meets them: with numbers for the marks; and all digits, whichever numbers there are."""
    yield from ["0 1 2 3 4 5 6 7 8 9"] * 200
    for samples in training.values():
        for sample in samples:
            meta = sample["meta"]
            for turn in sample["conversations"]:
                text = turn["value"]
                for mark, moment in meta["token"].items():
                    text = text.replace(mark, f"{min(round(100 * moment / meta['duration']), 99):02d}")
                yield text
    for text in texts:
        yield from [text] * 200
