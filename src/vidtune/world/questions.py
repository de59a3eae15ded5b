"""What can be asked and told about a scene: questions with one-word answers, and dense captions."""

import random
from dataclasses import dataclass

from vidtune.world.scene import NUMBERS, Scene

QUESTION_TYPES = ("colour", "shape", "direction", "count", "order")


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a scene with its one-word answer; ``type`` is one of QUESTION_TYPES."""

    text: str
    answer: str
    type: str


def ask(scene: Scene, rng: random.Random) -> list[Question]:
    """Questions of all types the scene allows, in random order: up to two about each shape, and two about all.

    Shapes that change colour are not asked for theirs, and a shape that one question names is the answer of no other
    but the order: each question needs the video even when all stand in one conversation.
    """
    questions = [Question("How many shapes are there?", NUMBERS[len(scene.actors)], "count")]
    for actor in scene.actors:
        named = actor.direction is not None and rng.random() < 0.6
        if named:
            questions.append(Question(f"Which way does the {actor.shape} move?", str(actor.direction), "direction"))
        if actor.turns is not None:
            continue
        if named or rng.random() < 0.3:
            questions.append(Question(f"What colour is the {actor.shape}?", actor.colour, "colour"))
        else:
            questions.append(Question(f"Which shape is {actor.colour}?", actor.shape, "shape"))
    if len(scene.actors) > 1:
        place, actor = rng.choice((("first", scene.actors[0]), ("last", scene.actors[-1])))
        questions.append(Question(f"Which shape appears {place}?", actor.shape, "order"))
    rng.shuffle(questions)
    return questions


def describe(scene: Scene, rng: random.Random) -> str:
    """Dense caption: the shapes in the order in which they appear, then each shape's story, in random order.

    A story starts from the shape or from its colour, so that learning to tell it is learning to look either up.
    """
    actors = list(scene.actors)
    told = [f"{NUMBERS[len(actors)]}: " + ", then ".join(actor.shape for actor in actors) + "."]
    rng.shuffle(actors)
    for actor in actors:
        name = f"the {actor.shape} is {actor.colour}"
        if rng.random() < 0.5:
            name = f"the {actor.colour} shape is a {actor.shape}"
        deeds = [f"moves {actor.direction}" if actor.direction else "stays"]
        if actor.turns is not None:
            deeds.append(f"turns {actor.turns[1]}")
        if actor.vanishes is not None:
            deeds.append("vanishes")
        told.append(f"{name} and {' and '.join(deeds)}.")
    return " ".join(told)
