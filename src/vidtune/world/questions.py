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
    """One question of every type the scene allows, in random order.

    No question gives away the answer of another, so that each needs the video even when all stand in one conversation.
    """
    actors = list(scene.actors)
    rng.shuffle(actors)
    questions = [Question("How many shapes are there?", NUMBERS[len(actors)], "count")]
    movers = [actor for actor in actors if actor.direction is not None]
    if movers:
        mover = movers[0]
        questions.append(Question(f"Which way does the {mover.shape} move?", str(mover.direction), "direction"))
    steady = [actor for actor in actors if actor.turns is None and actor not in movers[:1]] or actors[:1]
    for kind, actor in zip(rng.sample(("colour", "shape"), 2), steady, strict=False):
        if kind == "colour":
            questions.append(Question(f"What colour is the {actor.shape}?", actor.colour, kind))
        else:
            questions.append(Question(f"Which shape is {actor.colour}?", actor.shape, kind))
    if len(actors) > 1:
        place, actor = rng.choice((("first", scene.actors[0]), ("last", scene.actors[-1])))
        questions.append(Question(f"Which shape appears {place}?", actor.shape, "order"))
    rng.shuffle(questions)
    return questions


def describe(scene: Scene) -> str:
    """Dense caption: the number of shapes, then every event in the order of time."""
    plural = "" if len(scene.actors) == 1 else "s"
    told = [f"{NUMBERS[len(scene.actors)]} shape{plural}."]
    for event in scene.events:
        actor = scene.actors[event.actor]
        if event.kind == "appears":
            fate = f"moves {actor.direction}" if actor.direction else "stays"
            told.append(f"a {actor.colour} {actor.shape} appears and {fate}.")
        elif event.kind == "turns":
            told.append(f"the {actor.shape} turns {event.detail}.")
        elif event.kind == "vanishes":
            told.append(f"the {actor.shape} vanishes.")
    return " ".join(told)
