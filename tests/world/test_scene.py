import random
from collections import Counter
from dataclasses import replace

import pytest

from vidtune.world.questions import QUESTION_TYPES, ask, describe
from vidtune.world.render import draw_frame
from vidtune.world.scene import LANES, NUMBERS, make_scene

SCENES = [make_scene(0, i, 3.0) for i in range(300)]
HELD_OUT = [make_scene(0, i, 3.0, split="test") for i in range(300)]


def test_a_scene_is_a_pure_function_of_seed_and_index():
    assert make_scene(0, 5, 3.0) == SCENES[5]
    assert make_scene(1, 5, 3.0) != SCENES[5]
    random.seed(1)
    assert make_scene(0, 5, 3.0) == SCENES[5]


def test_splits_share_no_combination():
    seen = [{make_scene(0, i, 3.0, split).signature for i in range(300)} for split in ("train", "choice", "test")]
    assert len(set.union(*seen)) == sum(map(len, seen))


def test_no_shape_leaves_a_trail():
    for scene in (scene for scene in SCENES if all(actor.moves and not actor.turns for actor in scene.actors)):
        last = max(actor.moves[1] for actor in scene.actors)
        fresh = replace(scene, actors=tuple(replace(a, start=a.centre_at(last), moves=None) for a in scene.actors))
        assert (draw_frame(scene, last, 24) == draw_frame(fresh, last, 24)).all()


def test_actors_never_overlap_and_stay_in_the_frame():
    for scene in SCENES:
        for time in (step * 0.125 for step in range(24)):
            boxes = [box for actor in scene.actors if (box := actor.box_at(time))]
            assert all(0 <= side <= 1 for box in boxes for side in box)
            for i, one in enumerate(boxes):
                for other in boxes[i + 1 :]:
                    assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_questions_are_answered_by_the_ground_truth():
    for scene in SCENES:
        by_shape = {actor.shape: actor for actor in scene.actors}
        for question in ask(scene, random.Random(0)):
            words = question.text.rstrip("?").split()
            if question.type == "count":
                assert NUMBERS.index(question.answer) == len(scene.actors)
            elif question.type == "direction":
                actor = by_shape[words[4]]
                (x0, y0), (x1, y1) = actor.start, actor.end
                moved = {"left": x1 < x0, "right": x1 > x0, "up": y1 < y0, "down": y1 > y0}
                assert moved[question.answer] and sum(moved.values()) == 1
            elif question.type == "colour":
                assert by_shape[words[-1]].colour_at(scene.duration) == question.answer
            elif question.type == "shape":
                assert by_shape[question.answer].colour == words[-1]
            else:
                times = {actor.appears: actor.shape for actor in scene.actors}
                assert question.answer == times[(min if words[-1] == "first" else max)(times)]


@pytest.mark.parametrize("type_", QUESTION_TYPES)
def test_no_answer_is_common_enough_to_guess(type_):
    answers = Counter(q.answer for scene in HELD_OUT for q in ask(scene, random.Random(0)) if q.type == type_)
    assert answers.most_common(1)[0][1] / sum(answers.values()) < 0.45


def test_captions_tell_in_one_sentence_what_each_shape_is_and_does_in_alphabetical_order():
    for scene in SCENES:
        places = {1: [None], 2: ["first", "last"], 3: ["first", "second", "last"]}[len(scene.actors)]
        does = [
            (actor.colour, actor.shape, place, actor.direction or "stays")
            for actor, place in zip(scene.actors, places, strict=True)
        ]
        number, *told = [sentence.split() for sentence in describe(scene, "colour").rstrip(".").split(". ")]
        assert NUMBERS.index(number[0]) == len(scene.actors)
        assert [(words[1], words[2], placed(words), words[-1]) for words in told] == sorted(does)
        _, *told = [sentence.split() for sentence in describe(scene, "shape").rstrip(".").split(". ")]
        found = [(words[3].rstrip(","), words[1], placed(words), words[-1]) for words in told]
        assert found == sorted(does, key=lambda one: one[1])


def placed(words: list[str]) -> str | None:
    return words[words.index("appears") + 1] if "appears" in words else None


def test_replies_hold_their_answer():
    for scene in SCENES:
        assert all(question.answer in question.reply.rstrip(".").split() for question in ask(scene, random.Random(0)))


def test_every_event_has_a_tone_and_a_time_inside_the_clip():
    for scene in SCENES:
        assert all(0 <= event.start <= event.end <= scene.duration and event.tone > 0 for event in scene.events)


def test_a_picture_shows_all_its_actors_and_no_event():
    for index in range(30):
        scene = make_scene(0, index, 0.0)
        assert all(actor.visible_at(0.0) and actor.moves is None for actor in scene.actors)
        assert all(actor.centre_at(0.0)[0] == pytest.approx(actor.centre_at(0.0)[0]) for actor in scene.actors)
        assert len({actor.centre_at(0.0) for actor in scene.actors}) == len(scene.actors) <= len(LANES)
