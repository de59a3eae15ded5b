"""The world of moments as a data set: long mp4 files, short clips and pictures, conversations, and test sets.

Training annotations are in the JSON format of LLaVA-style trainers. The test sets are in the layout of zero-shot video
QA (``test_q.json``, ``test_a.json``, ``videos/``).
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from vidtune.data.writing.tokenizer import train_tokenizer
from vidtune.world.layout import Json, RenderProgress, conversation, file_name, write_world
from vidtune.world.moments.clips import (
    SECONDS_PER_MINUTE,
    LongClip,
    draw_clip,
    draw_moment,
    make_long_clip,
    make_short_clip,
)
from vidtune.world.moments.questions import TELL_ALL, TELL_ONE, ask_about_moments, ask_in_words, tell_all
from vidtune.world.questions import SceneQuestion
from vidtune.world.render import write_clip, write_picture

MOMENT_CAPTIONS = "short/captions.json"
MOMENT_PARTS = "long/parts.json"
MOMENT_QUESTIONS = "long/questions.json"
MOMENTS_IN_WORDS = "text/moments.json"
MOMENT_SETS = {"test": Path("eval/moments"), "choice": Path("eval/choice")}
"""Split -> folder of its test set; settings are chosen on "choice", and "test" is looked at once."""

PART_SECONDS = 30.0
PARTS = 3
"""Number of parts of a long video, in different minutes."""


@dataclass(frozen=True)
class MomentWorldSpec:
    """Size of a world of moments and format of its files.

    Args:
        seed: seed of all videos and questions.
        videos: number of long training videos.
        clips: number of short training clips.
        images: number of pictures.
        texts: number of text-only training samples.
        test_videos: number of held-out long videos.
        choice_videos: number of further held-out long videos, on which settings are chosen.
        minutes: duration of a long video.
        fps: frames per second.
        size: side of the frame in pixels.
    """

    seed: int = 0
    videos: int = 1000
    clips: int = 400
    images: int = 120
    texts: int = 200
    test_videos: int = 60
    choice_videos: int = 60
    minutes: int = 5
    fps: int = 1
    size: int = 32

    def clip(self, split: str, index: int) -> LongClip:
        """Returns video or picture number ``index`` of a split, "train", "choice", "test", "clip" or "image"."""
        make = make_short_clip if split in ("clip", "image") else make_long_clip
        return make(self.seed, split, index, self.minutes)

    def all_of(self, split: str) -> Iterator[tuple[str, LongClip]]:
        """Yields the id and the clip of all videos or pictures of a split."""
        counts = {"train": self.videos, "clip": self.clips, "image": self.images}
        counts |= {"test": self.test_videos, "choice": self.choice_videos}
        for index in range(counts[split]):
            yield file_name(split, index), self.clip(split, index)


def build_moment_world(
    out: Path,
    spec: MomentWorldSpec,
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
        MOMENT_CAPTIONS: [*_told(spec, "clip", "video"), *_told(spec, "image", "image")],
        MOMENT_PARTS: list(_parts(spec)),
        MOMENT_QUESTIONS: list(_asked(spec)),
        MOMENTS_IN_WORDS: list(_texts(spec)),
    }
    tests = {}
    for split, folder in MOMENT_SETS.items():
        pairs = list(_test_set(spec, split))
        tests[str(folder / "test_q.json")] = [question for question, _ in pairs]
        tests[str(folder / "test_a.json")] = [answer for _, answer in pairs]
    truth = {split: {id_: asdict(clip) for id_, clip in spec.all_of(split)} for split in ("train", *MOMENT_SETS)}
    write_world(
        out,
        spec,
        files=list(_files(out, spec)),
        write=partial(_write, spec),
        written={**training, **tests, "truth.json": truth},
        tokenizer=partial(train_tokenizer, _training_texts(training, texts), special=special, split_digits=True),
        workers=workers,
        progress=progress,
    )


def _files(out: Path, spec: MomentWorldSpec) -> Iterator[tuple[Path, LongClip]]:
    folders = {"train": out, "clip": out, **{split: out / folder for split, folder in MOMENT_SETS.items()}}
    for split, folder in folders.items():
        for id_, clip in spec.all_of(split):
            yield folder / "videos" / f"{id_}.mp4", clip
    for id_, clip in spec.all_of("image"):
        yield out / "images" / f"{id_}.png", clip


def _write(spec: MomentWorldSpec, clip: LongClip, path: Path) -> None:
    if path.suffix == ".png":
        write_picture(path, draw_moment(clip, clip.first, spec.size))
    else:
        write_clip(path, draw_clip(clip, spec.fps, spec.size), None, spec.fps)


def _told(spec: MomentWorldSpec, split: str, stream: str) -> Iterator[Json]:
    """All that happens in every video or picture of a split."""
    place = {"video": "videos/{}.mp4", "image": "images/{}.png"}[stream]
    for id_, clip in spec.all_of(split):
        yield conversation(id_, [(TELL_ONE, tell_all(clip))], **{stream: place.format(id_)})


def _parts(spec: MomentWorldSpec) -> Iterator[Json]:
    """Parts of every long video, each within one minute: what is shown there is found more easily than in the whole."""
    for id_, clip in spec.all_of("train"):
        dice = random.Random(f"{spec.seed} moments part {id_}")
        for minute in dice.sample(range(spec.minutes), min(PARTS, spec.minutes)):
            first = round(minute * SECONDS_PER_MINUTE + dice.uniform(0, SECONDS_PER_MINUTE - PART_SECONDS), 2)
            part = clip.between(first, first + PART_SECONDS)
            sample = conversation(f"{id_}_{minute}", [(TELL_ONE, tell_all(part))], video=f"videos/{id_}.mp4")
            yield {**sample, "start": part.first, "end": part.last}


def _asked(spec: MomentWorldSpec) -> Iterator[Json]:
    """All questions about a video are in one conversation, so that it is decoded once for all of them.

    What happens is told last, so that no answer can be read off it.
    """
    for id_, clip in spec.all_of("train"):
        turns = [*_turns(ask_about_moments(clip, _dice(spec, id_))), (TELL_ALL, tell_all(clip))]
        yield conversation(id_, turns, video=f"videos/{id_}.mp4")


def _texts(spec: MomentWorldSpec) -> Iterator[Json]:
    for index in range(spec.texts):
        id_ = file_name("text", index)
        yield conversation(id_, _turns([ask_in_words(spec.clip("text", index), _dice(spec, id_))]))


def _test_set(spec: MomentWorldSpec, split: str) -> Iterator[tuple[Json, Json]]:
    for id_, clip in spec.all_of(split):
        for number, question in enumerate(ask_about_moments(clip, _dice(spec, id_))):
            asked = {"video_name": id_, "question": question.text, "question_id": f"{id_}_{number}"}
            yield asked, {"answer": question.answer, "question_id": f"{id_}_{number}", "type": question.type}


def _turns(questions: Sequence[SceneQuestion]) -> list[tuple[str, str]]:
    return [(question.text, question.reply) for question in questions]


def _dice(spec: MomentWorldSpec, id_: str) -> random.Random:
    return random.Random(f"{spec.seed} moments {id_}")


def _training_texts(training: dict[str, list[Json]], texts: Sequence[str]) -> Iterator[str]:
    """Texts as a tokenizer meets them, and all digits."""
    yield from ["0 1 2 3 4 5 6 7 8 9"] * 200
    for samples in training.values():
        for sample in samples:
            yield from (turn["value"] for turn in sample["conversations"])
    for text in texts:
        yield from [text] * 200
