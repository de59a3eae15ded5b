"""Long videos with short events: what is drawn, told and asked, and the files of the world."""

import json
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.world import WORLD_MOMENTS
from vidtune.media.probe import probe
from vidtune.media.video import read_frames
from vidtune.processing.tokenizer import ChunkTokenizer, load_tokenizer
from vidtune.world import MOMENT_SETS, MomentWorldSpec, build_moment_world
from vidtune.world.moments.clips import EVENT_SECONDS, MOMENT_COLOURS, draw_clip, draw_moment
from vidtune.world.moments.dataset import (
    MOMENT_CAPTIONS,
    MOMENT_QUESTIONS,
    MOMENTS_IN_WORDS,
    PART_SECONDS,
    _parts,
)
from vidtune.world.moments.questions import TELL_ALL, ask_about_moments, tell_all
from vidtune.world.scene import COLOURS

SPEC = MomentWorldSpec(videos=2, clips=5, images=5, texts=20, test_videos=2, choice_videos=1)
SPECIAL = ("<|im_end|>", "<|im_start|>")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("moments")
    build_moment_world(out, SPEC, ["<|im_start|>user\nHi<|im_end|>\n"], SPECIAL, workers=1)
    return out


def read(world, name):
    return json.loads((world / name).read_text())


def shown(frame, event):
    """Number of pixels in the colour of an event."""
    return int((frame == COLOURS[event.colour]).all(-1).sum())


def test_videos_are_long_and_quiet_and_have_an_event_in_some_minutes():
    spec, minutes = replace(SPEC, videos=150), Counter()
    for _, clip in spec.all_of("train"):
        assert clip.last - clip.first >= 300
        assert 2 <= len(clip.events) <= 4
        assert len({event.colour for event in clip.events}) == len(clip.events)
        assert [event.minute for event in clip.events] == sorted({event.minute for event in clip.events})
        for event in clip.events:
            assert 60 * (event.minute - 1) <= event.start <= 60 * event.minute - EVENT_SECONDS
        minutes.update(event.minute for event in clip.events)
    assert set(minutes) == {1, 2, 3, 4, 5} and min(minutes.values()) > 50
    videos = {(split, clip.events) for split in ("train", "test", "choice") for _, clip in spec.all_of(split)}
    assert len({events for _, events in videos}) == len(videos)


def test_frames_show_an_event_while_it_lasts_and_tell_the_minute():
    clip = SPEC.clip("train", 0)
    frames = draw_clip(clip, 1, 32)
    assert frames.shape == (300, 32, 32, 3)
    for event in clip.events:
        seen = [second for second, frame in enumerate(frames) if shown(frame, event) > 20]
        assert seen == list(range(int(event.start), int(event.start) + EVENT_SECONDS))
    cells = [np.diff((draw_moment(clip, 60 * minute, 32)[-1, :, 0] > 200).astype(int)) for minute in range(5)]
    assert [int((cell == 1).sum()) for cell in cells] == [1, 2, 3, 4, 5]
    assert len({int(draw_moment(replace(clip, events=()), 60 * minute, 32)[0, 0, 0]) for minute in range(5)}) == 5


def test_files_are_as_drawn(world):
    for split, seconds in (("train", 300), ("clip", EVENT_SECONDS)):
        for id_, clip in SPEC.all_of(split):
            path = str(world / "videos" / f"{id_}.mp4")
            info = probe(path)
            assert (info.num_frames, round(info.duration), info.has_audio) == (seconds, seconds, False)
            moment = int(clip.events[0].start - clip.first)
            [frame] = read_frames(path, [moment]).astype(int)
            assert np.abs(frame - draw_moment(clip, clip.events[0].start, SPEC.size)).mean() < 12


def test_what_is_told_and_asked_is_true_of_the_clip(world):
    clips = [(id_, clip) for split in ("clip", "image") for id_, clip in SPEC.all_of(split)]
    for sample, (id_, clip) in zip(read(world, MOMENT_CAPTIONS), clips, strict=True):
        stream = "image" if "image" in sample else "video"
        assert sample["id"] == id_ and (world / sample[stream]).is_file()
        asked, told = (turn["value"] for turn in sample["conversations"])
        assert asked.startswith(f"<{stream}>\n") and told == tell_all(clip)
    for sample, (_, clip) in zip(read(world, MOMENT_QUESTIONS), SPEC.all_of("train"), strict=True):
        *turns, asked, told = [turn["value"].removeprefix("<video>\n") for turn in sample["conversations"]]
        _check_turns(turns, clip)
        assert (asked, told) == (TELL_ALL, tell_all(clip))
    for number, sample in enumerate(read(world, MOMENTS_IN_WORDS)):
        clip = SPEC.clip("text", number)
        question, answer = (turn["value"] for turn in sample["conversations"])
        assert question.startswith(tell_all(clip) + " ") and set(sample) == {"id", "conversations"}
        _check_turns([question.removeprefix(tell_all(clip) + " "), answer], clip)


def test_a_part_lies_within_a_minute_and_its_caption_tells_what_it_shows():
    spec = replace(SPEC, videos=40)
    clips, told = dict(spec.all_of("train")), Counter()
    for sample in _parts(spec):
        start, end = sample["start"], sample["end"]
        clip, minute = clips[sample["id"].rpartition("_")[0]], int(start // 60) + 1
        assert round(end - start, 1) == PART_SECONDS and 60 * (minute - 1) <= start and end <= 60 * minute + 0.01
        shown = [e for e in clip.events if min(e.start + EVENT_SECONDS, end) - max(e.start, start) > EVENT_SECONDS / 2]
        caption = sample["conversations"][1]["value"]
        assert (
            caption == " ".join(f"{e.named} in minute {minute}." for e in shown)
            or caption == f"nothing in minute {minute}."
        )
        assert bool(shown) != caption.startswith("nothing")
        told[bool(shown)] += 1
    assert min(told.values()) > 30 and sum(told.values()) == 3 * spec.videos


def _check_turns(turns, clip):
    for question, answer in zip(turns[::2], turns[1::2], strict=True):
        named = [event for event in clip.events if f"minute {event.minute}?" in question]
        named += [event for event in clip.events if f"something {event.colour} " in question]
        [event] = named
        right = {"What colour": f"it is {event.colour}.", "What shape": f"it is a {event.shape}."}
        assert answer == right.get(" ".join(question.split()[:2]), f"in minute {event.minute}.")


@pytest.mark.parametrize("split", ["test", "choice"])
def test_the_benchmark_asks_every_question_about_every_video(world, split):
    questions = WORLD_MOMENTS.load(world / MOMENT_SETS[split]).questions
    assert len({question.id for question in questions}) == len(questions) and not any(q.missing for q in questions)
    for id_, clip in SPEC.all_of(split):
        about = [question for question in questions if question.video == id_]
        assert {question.type for question in about} <= {"colour", "shape", "when"}
        answers = {str(event.minute) for event in clip.events} | {event.colour for event in clip.events}
        assert {question.answer for question in about if question.type != "shape"} <= answers
    if split == "test":
        assert WORLD_MOMENTS.load(world).questions == questions


def test_no_question_can_be_answered_without_the_video():
    """Of the four colours each is right about as often, and so is each minute."""
    spec, answers = replace(SPEC, videos=300), {"colour": Counter(), "shape": Counter(), "when": Counter()}
    for index in range(spec.videos):
        for question in ask_about_moments(spec.clip("train", index), random.Random(index)):
            answers[question.type][question.answer] += 1
    for kind, most in (("colour", 0.3), ("shape", 0.38), ("when", 0.26)):
        assert answers[kind].most_common(1)[0][1] / answers[kind].total() < most
    assert set(answers["colour"]) == set(MOMENT_COLOURS)


def test_special_texts_are_tokens_and_a_line_end_is_one(world):
    tokenizer = ChunkTokenizer(load_tokenizer(world / "tokenizer"))
    start, end, line = tokenizer.ids_of((*SPECIAL[::-1], "\n"))
    ids = tokenizer("<|im_start|>user\nWhat colour is shown in minute 3?<|im_end|>\n").ids
    assert [ids.index(start), ids[-2], ids[-1]] == [0, end, line] and ids.count(line) == 2
    assert tokenizer.tokenizer.decode(ids, skip_special_tokens=True).startswith("user\nWhat colour")


def test_the_same_spec_gives_the_same_bytes_and_another_is_refused(world, tmp_path):
    small = replace(SPEC, videos=1, clips=1, images=1, test_videos=0, choice_videos=0)
    for name in ("a", "b"):
        build_moment_world(tmp_path / name, small, ["Hi"], SPECIAL, workers=1)
    first, second = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "a", tmp_path / "b")
    )
    assert first == second
    with pytest.raises(UserError, match="another size or seed"):
        build_moment_world(tmp_path / "a", SPEC, workers=1)
