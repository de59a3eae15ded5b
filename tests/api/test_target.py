"""Questions about one target in a video: which boxes the model sees, and what it is told when they do not fit."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from moving_square import FRAMES, HEIGHT, WIDTH, pictures, place, write_moving_square
from PIL import Image
from tiny_checkpoint import write_checkpoint
from tiny_targets import write_target_checkpoint

import vidtune
from vidtune.api import target as target_module
from vidtune.media.boxes.located import BoxAt, LocatedTarget
from vidtune.processing.asked_media import target_media

QUESTION = "What is <box> doing?"
TRACK = [(frame / 12, place(frame)) for frame in range(FRAMES)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> vidtune.Model:
    return vidtune.load(write_target_checkpoint(tmp_path_factory.mktemp("target-model") / "model"))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moving_square(tmp_path_factory.mktemp("target-video") / "v.mp4")


@pytest.fixture
def target() -> vidtune.Target:
    return vidtune.Target(place(12), seconds=1.0)


def test_all_forms_name_one_target(model: vidtune.Model, video: Path, target: vidtune.Target) -> None:
    left, top, right, bottom = place(12)
    size = right - left, bottom - top
    same = [
        vidtune.Target((left, top, *size), 1.0, form="xywh"),
        vidtune.Target((left / WIDTH, top / HEIGHT, size[0] / WIDTH, size[1] / HEIGHT), 1.05, form="xywh_fraction"),
        vidtune.Target(np.array(place(12)), frame=12),  # type: ignore[arg-type]
    ]
    assert [one.locate(video) for one in same] == [model.follow(target, video=video)] * 3


def test_the_answer_depends_on_the_box_and_on_its_track(
    model: vidtune.Model, video: Path, target: vidtune.Target
) -> None:
    others = [vidtune.Target((0, 0, 30, 30), 1.0), vidtune.Target(place(12), 1.0, TRACK)]
    targets = [model.follow(target, video=video), target, *others]
    replies = [model.answer(QUESTION, video=video, target=one, max_new_tokens=4) for one in targets]
    assert replies[0] == replies[1] and len(set(replies)) == 3


def test_the_media_are_the_asked_box_and_boxes_over_the_whole_track(video: Path) -> None:
    found = vidtune.Target(place(12), 1.0, TRACK[:15]).locate(video)
    box, track = target_media(found, ("box", "track"), 8)
    path = str(video.resolve())
    assert (box.stream, box.path, track.stream, track.path) == ("box", path, "track", path)
    assert box.extras == (("boxes", (place(12),)), ("frames", (12.0,)))
    assert track.extras == (("boxes", tuple(map(place, range(0, 15, 2)))), ("frames", tuple(range(0, 15, 2))))


def test_one_question_several_and_a_stream_have_equal_answers(
    model: vidtune.Model, video: Path, target: vidtune.Target
) -> None:
    questions = [QUESTION, "Why is <box> left of <box>?"]
    both = model.answer(questions, video=video, target=target, max_new_tokens=4)
    for question, reply in zip(questions, both, strict=True):
        options = {"video": video, "target": target, "max_new_tokens": 4}
        assert reply == model.answer(question, **options) == "".join(model.stream(question, **options))


def test_a_conversation_may_name_the_target_again_and_follows_it_once(
    model: vidtune.Model, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed: list[str] = []

    def follow(located: LocatedTarget, tracker: str, timeout: float) -> tuple[BoxAt, ...]:
        followed.append(tracker)
        return (located.key, BoxAt(20, 20 / 12, place(20)))

    monkeypatch.setattr(target_module, "check_tracker", lambda name: None)
    monkeypatch.setattr(target_module, "followed", follow)
    talk = model.chat(video=video, target=vidtune.Target(place(12), 1.0, tracker="kcf"), max_new_tokens=3)
    for text in (QUESTION, "And then?", "Where is <box> now?"):
        talk.say(text)
    assert followed == ["kcf"]
    assert [turn.text.count("<box>") for turn in talk.turns[::2]] == [1, 0, 1]
    assert [turn.text.count("<track>") for turn in talk.turns[::2]] == [1, 0, 0]
    assert [ref.stream for ref in talk._media] == ["video", "box", "track", "box"]
    assert [extra[1] for extra in talk._media[2].extras] == [(place(12), place(20)), (12.0, 20.0)]


@pytest.fixture
def frames(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, picture in enumerate(pictures()):
        Image.fromarray(picture).save(folder / f"{number}.png")
    yield folder


def test_a_box_in_a_folder_of_frames_is_asked_by_its_number(model: vidtune.Model, frames: Path) -> None:
    options = {"video": frames, "max_new_tokens": 4}
    asked = vidtune.Target(place(12), frame=12, track=[(2, place(2)), (20, place(20))])
    assert model.answer(QUESTION, target=asked, **options)
    assert model.follow(asked, video=frames).track[1] == BoxAt(20, None, place(20))
    with pytest.raises(vidtune.UserError, match=r"target=: the frames of .* have no times; give the number"):
        model.answer(QUESTION, target=vidtune.Target(place(12), 1.0), **options)


def test_a_target_may_be_switched_off(model: vidtune.Model, video: Path, target: vidtune.Target) -> None:
    options = {"video": video, "without": ["box", "track"], "max_new_tokens": 4}
    other = vidtune.Target((0, 0, 30, 30), 1.0)
    assert model.answer(QUESTION, target=target, **options) == model.answer(QUESTION, target=other, **options)


def test_what_does_not_fit_is_one_line(
    model: vidtune.Model, video: Path, frames: Path, target: vidtune.Target, tmp_path: Path
) -> None:
    located = model.follow(target, video=video)
    assert "steps=" not in repr(located) and "key=BoxAt" in repr(located)
    Image.new("RGB", (96, 64)).save(tmp_path / "a.png")
    for line, options in (
        ("^a box is given, but the text holds no <box>", {"question": "What?"}),
        ("^the text holds <box>, but no box is given; give one .target=, or --box", {"target": None}),
        ("target=: needs one video= in which the box is, and 0 were given", {"video": None}),
        ("target=: needs one video= in which the box is, and 2 were given", {"video": [video, video]}),
        ("target=: the target is in .*v.mp4, but another video= is asked about", {"target": located, "video": frames}),
        (r"a\.png: is no video, but image", {"video": tmp_path / "a.png"}),
        (r"target=: track\[1\]: 9 s is asked", {"target": vidtune.Target(place(2), 1.0, [TRACK[0], (9.0, place(2))])}),
        (
            r"target=: track\[0\]: the box 1,2,1,4 has no",
            {"target": vidtune.Target(place(2), 1.0, [(0, (1, 2, 1, 4))])},
        ),
        (r"target=: track\[0\]: expected a pair", {"target": vidtune.Target(place(2), 1.0, [3])}),
        ("target: expected a vidtune.Target, found", {"target": (1, 2, 3, 4)}),
    ):
        with pytest.raises(vidtune.UserError, match=line) as caught:
            model.answer(**{"question": QUESTION, "video": video, "target": target, **options})
        assert "\n" not in str(caught.value)
    for find in (vidtune.Target(place(2), 9.0).locate, vidtune.Target(place(2), 9.0).follow):
        with pytest.raises(vidtune.UserError, match=r"^box=: 9 s is asked about"):
            find(video)
    with pytest.raises(vidtune.UserError, match="a track or a tracker"):
        vidtune.Target(place(12), 1.0, TRACK, tracker="kcf")


def test_a_model_that_takes_no_boxes_says_so(tmp_path: Path, video: Path, target: vidtune.Target) -> None:
    other = vidtune.load(write_checkpoint(tmp_path / "model"))
    with pytest.raises(
        vidtune.UserError, match="system video_llava takes no boxes, only image, video: leave out target="
    ):
        other.answer(QUESTION, video=video, target=target)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"track": None}, "the track of a target is None"),
        ({"track": 5}, "the track of a target is 5"),
        ({"track": ""}, "the track of a target is ''"),
        ({"track": iter(())}, "the track of a target is <tuple_iterator"),
        ({"tracker": 5}, "tracker 5 does not exist"),
        ({"tracker": ["csrt"]}, r"tracker \['csrt'\] does not exist"),
    ],
)
def test_arguments_of_a_wrong_type_are_refused(given, line) -> None:
    with pytest.raises(vidtune.UserError, match=line):
        vidtune.Target(place(12), 1.0, **given)
