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


def describe(scene: Scene) -> str:
    """Dense caption: how many shapes, each with its colour and way in the order in which they appear, then what becomes
    of them in the order of time. Nothing in it is left to chance, so that all of it can be learned from the clip.
    """
    plural = "" if len(scene.actors) == 1 else "s"
    told = [f"{NUMBERS[len(scene.actors)]} shape{plural}."]
    for actor in scene.actors:
        way = f"moves {actor.direction}" if actor.direction else "stays"
        told.append(f"a {actor.colour} {actor.shape} appears and {way}.")
    for event in scene.events:
        shape = scene.actors[event.actor].shape
        if event.kind == "turns":
            told.append(f"the {shape} turns {event.detail}.")
        elif event.kind == "vanishes":
            told.append(f"the {shape} vanishes.")
    return " ".join(told)
