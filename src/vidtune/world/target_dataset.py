"""The world of targets as a data set: mp4 files of several shapes, of which every annotation names one by its box.

Annotations about targets are in the schema of arXiv:2406.00258, a list of {"video_name", "frame_path", "frame_id",
"track_list", "key_frame_id", "key_frame_box", "question", "caption"}: ``frame_path`` is a video, ``frame_id`` the
numbers of its frames, boxes are left, top, right, bottom in pixels. Captions and questions about whole clips are
conversations in the JSON format of LLaVA-style trainers.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from vidtune.data.writing.tokenizer import train_tokenizer
from vidtune.world.layout import Json, RenderProgress, conversation, file_name, write_world
from vidtune.world.questions import SceneQuestion
from vidtune.world.render import draw_frame, write_clip, write_picture
from vidtune.world.scene import Actor, Scene
from vidtune.world.target_questions import (
    TELL,
    ask_in_words,
    ask_of_scene,
    ask_of_target,
    describe_targets,
    say_of_target,
)
from vidtune.world.targets import make_target_scene

TARGET_CAPTIONS = "referring/captions.json"
TARGET_QUESTIONS = "referring/questions.json"
TARGETS_IN_WORDS = "text/targets.json"
SCENE_CAPTIONS = "pt_json/captions.json"
SCENE_QUESTIONS = "ft_json/questions.json"
TARGET_SETS = {"test": Path("eval/targets"), "choice": Path("eval/choice")}
"""Split -> folder of its test set; settings are chosen on "choice", and "test" is looked at once."""
TARGET_SET_FILE = "targets.json"
_CAPTION_PROMPT = "Describe the {stream}."


@dataclass(frozen=True)
class TargetWorldSpec:
    """Size of a world of targets and format of its files.

    Args:
        seed: seed of all scenes and questions.
        videos: number of training clips.
        images: number of training images.
        texts: number of text-only training samples.
        test_videos: number of held-out clips.
        choice_videos: number of further held-out clips, on which settings are chosen.
        frames: number of frames of a clip.
        fps: frames per second.
        size: side of the frame in pixels.
    """

    seed: int = 0
    videos: int = 800
    images: int = 100
    texts: int = 160
    test_videos: int = 60
    choice_videos: int = 60
    frames: int = 8
    fps: int = 4
    size: int = 48

    def scene(self, split: str, index: int) -> Scene:
        """Returns scene number ``index`` of a split, "train", "choice", "test" or "image"."""
        if split == "image":
            return make_target_scene(self.seed, "train", index, 0.0)
        return make_target_scene(self.seed, split, index, self.frames / self.fps)

    def scenes(self, split: str) -> Iterator[tuple[str, Scene]]:
        """Yields the id and the scene of all clips or images of a split."""
        counts = {
            "train": self.videos,
            "image": self.images,
            "test": self.test_videos,
            "choice": self.choice_videos,
        }
        for index in range(counts[split]):
            yield file_name(split, index), self.scene(split, index)


def build_target_world(
    out: Path,
    spec: TargetWorldSpec,
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
    conversations = {
        TARGETS_IN_WORDS: list(_texts(spec)),
        SCENE_CAPTIONS: list(_captions(spec)),
        SCENE_QUESTIONS: list(_conversations(spec)),
    }
    referring = {TARGET_CAPTIONS: list(_told(spec)), TARGET_QUESTIONS: list(_asked(spec))}
    tests = {str(folder / TARGET_SET_FILE): list(_test_set(spec, split)) for split, folder in TARGET_SETS.items()}
    truth = {split: _truth(spec, split) for split in ("train", "choice", "test")}
    write_world(
        out,
        spec,
        files=list(_files(out, spec)),
        write=partial(_write, spec),
        written={**conversations, **referring, **tests, "truth.json": truth},
        tokenizer=partial(train_tokenizer, _training_texts(conversations, referring, texts), special=special),
        workers=workers,
        progress=progress,
    )


def _files(out: Path, spec: TargetWorldSpec) -> Iterator[tuple[Path, Scene]]:
    for split, folder in (("train", out), ("test", out / TARGET_SETS["test"]), ("choice", out / TARGET_SETS["choice"])):
        for id_, scene in spec.scenes(split):
            yield folder / _video(id_), scene
    for id_, scene in spec.scenes("image"):
        yield out / _image(id_), scene


def _video(id_: str) -> str:
    return f"videos/{id_}.mp4"


def _image(id_: str) -> str:
    return f"images/{id_}.png"


def _write(spec: TargetWorldSpec, scene: Scene, path: Path) -> None:
    if path.suffix == ".png":
        write_picture(path, draw_frame(scene, 0.0, spec.size))
    else:
        write_clip(path, draw_target_frames(scene, spec), None, spec.fps)


def draw_target_frames(scene: Scene, spec: TargetWorldSpec) -> np.ndarray:
    """Returns all frames of a clip: (T, S, S, 3) uint8 RGB. No shape leaves a trail: motion is seen over time only."""
    return np.stack([draw_frame(scene, t / spec.fps, spec.size) for t in range(spec.frames)])


def _boxes(actor: Actor, spec: TargetWorldSpec) -> list[list[int]]:
    """Box of an actor in every frame: left, top, right, bottom in pixels."""
    times = [t / spec.fps for t in range(spec.frames)]
    return [[round(side * spec.size) for side in actor.box_at(time) or ()] for time in times]


def _about(spec: TargetWorldSpec, id_: str, actor: Actor, number: int) -> Json:
    """The video, the boxes of one actor, and the box that is asked about.

    Published readers take a key frame 0 for none, so that it is never the first one.
    """
    boxes = _boxes(actor, spec)
    key = _dice(spec, "key", f"{id_} {number}").randrange(1, spec.frames)
    return {
        "video_name": f"{id_}_{number}",
        "frame_path": _video(id_),
        "frame_id": list(range(spec.frames)),
        "track_list": boxes,
        "key_frame_id": key,
        "key_frame_box": boxes[key],
    }


def _told(spec: TargetWorldSpec) -> Iterator[Json]:
    """All about every actor in one sentence."""
    for id_, scene in spec.scenes("train"):
        for number, actor in enumerate(scene.actors):
            yield {**_about(spec, id_, actor, number), "question": TELL, "caption": say_of_target(actor)}


def _asked(spec: TargetWorldSpec) -> Iterator[Json]:
    """One question about every actor."""
    for id_, scene in spec.scenes("train"):
        for number, actor in enumerate(scene.actors):
            question = _dice(spec, "question", f"{id_} {number}").choice(ask_of_target(actor))
            yield _target_question(_about(spec, id_, actor, number), question)


def _target_question(about: Json, question: SceneQuestion) -> Json:
    return {**about, "question": question.text, "caption": question.reply}


def _test_set(spec: TargetWorldSpec, split: str) -> Iterator[Json]:
    """Every question about one actor of each clip; ``answer`` is the word that is asked for, ``type`` its kind."""
    for id_, scene in spec.scenes(split):
        number = _dice(spec, "target", id_).randrange(len(scene.actors))
        actor = scene.actors[number]
        for question in ask_of_target(actor):
            about = _target_question(_about(spec, id_, actor, number), question)
            yield {**about, "video_name": id_, "answer": question.answer, "type": question.type}


def _texts(spec: TargetWorldSpec) -> Iterator[Json]:
    for index in range(spec.texts):
        dice = _dice(spec, "text", str(index))
        asked = ask_in_words(dice.choice(spec.scene("train", index).actors), dice)
        yield conversation(file_name("text", index), [(asked.text, asked.reply)])


def _captions(spec: TargetWorldSpec) -> Iterator[Json]:
    for stream, split, path in (("video", "train", _video), ("image", "image", _image)):
        for id_, scene in spec.scenes(split):
            turns = [(_CAPTION_PROMPT.format(stream=stream), describe_targets(scene))]
            yield conversation(id_, turns, **{stream: path(id_)})


def _conversations(spec: TargetWorldSpec) -> Iterator[Json]:
    """All questions about a clip or image are in one conversation, so that it is decoded once for all of them."""
    for stream, split, path in (("video", "train", _video), ("image", "image", _image)):
        for id_, scene in spec.scenes(split):
            asked = ask_of_scene(scene, _dice(spec, "scene", id_))
            yield conversation(id_, [(one.text, one.reply) for one in asked], **{stream: path(id_)})


def _dice(spec: TargetWorldSpec, kind: str, id_: str) -> random.Random:
    return random.Random(f"{spec.seed} {kind} {id_}")


def _truth(spec: TargetWorldSpec, split: str) -> dict[str, Json]:
    return {
        id_: {
            "actors": [asdict(actor) for actor in scene.actors],
            "boxes": [_boxes(actor, spec) for actor in scene.actors],
        }
        for id_, scene in spec.scenes(split)
    }


def _training_texts(
    conversations: dict[str, list[Json]], referring: dict[str, list[Json]], texts: Sequence[str]
) -> Iterator[str]:
    for samples in conversations.values():
        for sample in samples:
            yield from (turn["value"] for turn in sample["conversations"])
    for samples in referring.values():
        for sample in samples:
            yield from (sample[key] for key in ("question", "caption") if key in sample)
    for text in texts:
        yield from [text] * 200
