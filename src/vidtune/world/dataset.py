"""The world as a data set: media files, training annotations, a held-out test set, ground truth and a tokenizer.

Training annotations are in the JSON format of LLaVA-style trainers (a list of {"id", "video" or "image",
"conversations"}); the test set is in the layout of zero-shot video QA (``test_q.json``, ``test_a.json``, ``videos/``).
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vidtune.data.writing.tokenizer import train_tokenizer
from vidtune.world.layout import Json, RenderProgress, conversation, file_name, write_world
from vidtune.world.questions import SUBJECTS, SceneQuestion, ask, ask_order, describe
from vidtune.world.render import write_image, write_video
from vidtune.world.scene import CAST, COLOURS, SHAPES, Scene, make_scene

TEST_SET = Path("eval/GPT_Zero_Shot_QA/World_Zero_Shot_QA")
TEST_SETS = {"test": TEST_SET, "choice": Path("eval/choice/World_Zero_Shot_QA")}
"""Split -> folder of its test set; settings are chosen on "choice", and "test" is looked at once."""
CAPTION_PROMPT = "Describe the {stream} by {subject}."


@dataclass(frozen=True)
class WorldSpec:
    """Size of a world and format of its files.

    Args:
        seed: seed of all scenes and questions.
        videos: number of training clips.
        images: number of training images.
        texts: number of text-only training samples.
        test_videos: number of held-out clips; they show combinations that are in no training sample.
        choice_videos: number of further held-out clips, on which settings are chosen.
        seconds: duration of a clip.
        fps: frames per second.
        size: side of the frame in pixels.
        sound: whether clips have a sound track, in which a tone marks every event.
    """

    seed: int = 0
    videos: int = 3000
    images: int = 40
    texts: int = 40
    test_videos: int = 160
    choice_videos: int = 60
    seconds: float = 3.0
    fps: int = 8
    size: int = 96
    sound: bool = False

    @property
    def clips(self) -> dict[str, int]:
        """Split -> number of its clips."""
        return {"train": self.videos, "test": self.test_videos, "choice": self.choice_videos}

    def scene(self, split: str, index: int) -> Scene:
        """Returns scene number ``index`` of a split, "train", "test" or "choice"."""
        return make_scene(self.seed, index, self.seconds, split)

    def image_scene(self, index: int) -> Scene:
        return make_scene(self.seed, index, 0.0)


def build_world(
    out: Path,
    spec: WorldSpec,
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
    annotations = {
        "pt_json/captions.json": list(_captions(spec)),
        "ft_json/questions.json": list(_conversations(spec)),
        "ft_json/order.json": list(_further_order(spec)),
    }
    for split, folder in TEST_SETS.items():
        asked = list(_test_set(spec, split))
        annotations[str(folder / "test_q.json")] = [question for question, _ in asked]
        annotations[str(folder / "test_a.json")] = [answer for _, answer in asked]
    truth = {split: _truth(spec, split) for split in spec.clips}
    write_world(
        out,
        spec,
        files=list(_files(out, spec)),
        write=partial(_write, spec),
        written=annotations | {"truth.json": truth},
        tokenizer=partial(train_tokenizer, _training_texts(annotations, texts), special=special),
        workers=workers,
        progress=progress,
    )


def _files(out: Path, spec: WorldSpec) -> Iterator[tuple[Path, Scene]]:
    for split, folder in ({"train": Path()} | TEST_SETS).items():
        for i in range(spec.clips[split]):
            yield out / folder / "videos" / f"{file_name(split, i)}.mp4", spec.scene(split, i)
    for i in range(spec.images):
        yield out / "images" / f"{file_name('image', i)}.png", spec.image_scene(i)


def _write(spec: WorldSpec, scene: Scene, path: Path) -> None:
    if path.suffix == ".png":
        write_image(scene, path, spec.size)
    else:
        write_video(scene, path, spec.fps, spec.size, spec.sound)


def _captions(spec: WorldSpec) -> Iterator[Json]:
    for i in range(spec.videos):
        turns = [_caption_turn("video", spec.scene("train", i), i)]
        yield conversation(file_name("train", i), turns, video=f"videos/{file_name('train', i)}.mp4")
    for i in range(spec.images):
        turns = [_caption_turn("image", spec.image_scene(i), i)]
        yield conversation(file_name("image", i), turns, image=f"images/{file_name('image', i)}.png")


def _conversations(spec: WorldSpec) -> Iterator[Json]:
    """Each question stands alone, as in the test set: answers about other shapes would help to guess."""
    for i in range(spec.videos):
        name = file_name("train", i)
        for number, question in enumerate(ask(spec.scene("train", i), _dice(spec, "train", i))):
            yield conversation(f"{name}_{number}", [_turn(question)], video=f"videos/{name}.mp4")
    for i in range(spec.images):
        name, scene = file_name("image", i), spec.image_scene(i)
        questions = [q for q in ask(scene, _dice(spec, "image", i)) if q.type in ("colour", "shape", "count")]
        for number, question in enumerate(questions):
            yield conversation(f"{name}_{number}", [_turn(question)], image=f"images/{name}.png")
    for i in range(spec.texts):
        yield conversation(file_name("text", i), [_text_turn(_dice(spec, "text", i))])


def _further_order(spec: WorldSpec) -> Iterator[Json]:
    """Of each clip the question about the order that `_conversations` does not ask: this kind is asked the least."""
    for i in range(spec.videos):
        name, scene = file_name("train", i), spec.scene("train", i)
        asked = ask(scene, _dice(spec, "train", i))
        for question in ask_order(scene):
            if question not in asked:
                yield conversation(f"{name}_order", [_turn(question)], video=f"videos/{name}.mp4")


def _test_set(spec: WorldSpec, split: str) -> Iterator[tuple[Json, Json]]:
    for i in range(spec.clips[split]):
        name = file_name(split, i)
        for number, question in enumerate(ask(spec.scene(split, i), _dice(spec, split, i))):
            id_ = f"{name}_{number}"
            yield (
                {"video_name": name, "question": question.text, "question_id": id_},
                {"answer": question.answer, "question_id": id_, "type": question.type},
            )


def _dice(spec: WorldSpec, kind: str, index: int) -> random.Random:
    return random.Random(f"{spec.seed} {kind} {index}")


def _turn(question: SceneQuestion) -> tuple[str, str]:
    return question.text, question.reply


def _caption_turn(stream: str, scene: Scene, index: int) -> tuple[str, str]:
    subject = SUBJECTS[index // len(CAST) % 2]  # both subjects occur with every number of shapes
    return CAPTION_PROMPT.format(stream=stream, subject=subject), describe(scene, subject)


def _text_turn(dice: random.Random) -> tuple[str, str]:
    colours, shapes = dice.sample(tuple(COLOURS), 2), dice.sample(SHAPES, 2)
    told = " ".join(f"the {shape} is {colour}." for colour, shape in zip(colours, shapes, strict=True))
    return f"{told} Which shape is {colours[1]}?", f"the {colours[1]} shape is a {shapes[1]}."


def _truth(spec: WorldSpec, split: str) -> dict[str, Json]:
    """Ground truth of every clip: captions, events with times and tones, a box per actor and frame."""
    times = [frame / spec.fps for frame in range(round(spec.seconds * spec.fps))]
    truth: dict[str, Json] = {}
    for i in range(spec.clips[split]):
        scene = spec.scene(split, i)
        truth[file_name(split, i)] = {
            "captions": {subject: describe(scene, subject) for subject in SUBJECTS},
            "actors": [{"shape": actor.shape, "colour": actor.colour} for actor in scene.actors],
            "events": [{**asdict(event), "tone": event.tone} for event in scene.events],
            "boxes": [[_rounded(actor.box_at(time)) for actor in scene.actors] for time in times],
        }
    return truth


def _rounded(box: tuple[float, ...] | None) -> list[float] | None:
    return None if box is None else [round(side, 4) for side in box]


def _training_texts(annotations: dict[str, Any], texts: Sequence[str]) -> Iterator[str]:
    for name in ("pt_json/captions.json", "ft_json/questions.json"):
        for sample in annotations[name]:
            for turn in sample["conversations"]:
                yield turn["value"]
    for text in texts:
        yield from [text] * 200
