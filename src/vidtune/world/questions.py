"""Questions with one-word answers about a scene, and dense captions of it.

A sentence of a caption tells all of one shape, so that what belongs together is learned together.
"""

import random
from dataclasses import dataclass

from vidtune.world.scene import NUMBERS, Actor, Scene

QUESTION_TYPES = ("colour", "shape", "direction", "count", "order")
SUBJECTS = ("colour", "shape")
_PLACES = {1: ("",), 2: ("first", "last"), 3: ("first", "second", "last")}


@dataclass(frozen=True, slots=True)
class SceneQuestion:
    """A question about a scene.

    Args:
        text: text of the question.
        answer: correct answer, one word.
        reply: sentence with the answer, which the model is trained on.
        type: one of QUESTION_TYPES.
    """

    text: str
    answer: str
    reply: str
    type: str


def ask(scene: Scene, rng: random.Random) -> list[SceneQuestion]:
    """Returns questions of all types that the scene allows, in random order: up to two per shape, and two about all.

    No question asks for the colour of a shape that changes it. A shape that one question names is not the answer of
    another one, except that about the order: each question needs the video, even if all are in one conversation.
    """
    number = NUMBERS[len(scene.actors)]
    questions = [SceneQuestion("How many shapes are there?", number, say_number(scene), "count")]
    for actor in scene.actors:
        named = actor.direction is not None and rng.random() < 0.6
        if named:
            text = f"Which way does the {actor.shape} move?"
            questions.append(SceneQuestion(text, str(actor.direction), say_way(actor), "direction"))
        if actor.turns is not None:
            continue
        if named or rng.random() < 0.5:
            text = f"What colour is the {actor.shape}?"
            questions.append(SceneQuestion(text, actor.colour, say_colour(actor), "colour"))
        else:
            questions.append(SceneQuestion(f"Which shape is {actor.colour}?", actor.shape, say_shape(actor), "shape"))
    if of_order := ask_order(scene):
        questions.append(rng.choice(of_order))
    rng.shuffle(questions)
    return questions


def ask_order(scene: Scene) -> list[SceneQuestion]:
    """Returns the questions which shape appears first and which one last; none about a single shape."""
    ends = {"first": scene.actors[0], "last": scene.actors[-1]} if len(scene.actors) > 1 else {}
    return [
        SceneQuestion(f"Which shape appears {place}?", actor.shape, f"the {actor.shape} appears {place}.", "order")
        for place, actor in ends.items()
    ]


def describe(scene: Scene, subject: str) -> str:
    """Returns a dense caption: the number of shapes, then what each is and does, in alphabetical order of the subject.

    It contains nothing random, so that all of it can be learned from the clip. In the order of appearance, a model
    would find the rest of a sentence by its place, and not by what the sentence is about.

    Args:
        scene: the scene.
        subject: what a sentence names first, one of SUBJECTS: a model learns to find the rest by it.
    """
    told = [say_number(scene)]
    placed = zip(scene.actors, _PLACES[len(scene.actors)], strict=True)
    for actor, place in sorted(placed, key=lambda one: str(getattr(one[0], subject))):
        named = f"{actor.colour} {actor.shape}" if subject == "colour" else f"{actor.shape} is {actor.colour}, it"
        when = f"appears {place} and " if place and scene.duration else ""
        told.append(f"the {named} {when}{_moves(actor)}.")
    return " ".join(told)


def say_number(scene: Scene) -> str:
    return f"{NUMBERS[len(scene.actors)]} shape{'' if len(scene.actors) == 1 else 's'}."


def say_colour(actor: Actor) -> str:
    return f"the {actor.shape} is {actor.colour}."


def say_shape(actor: Actor) -> str:
    return f"the {actor.colour} {actor.shape}."


def say_way(actor: Actor) -> str:
    return f"the {actor.shape} {_moves(actor)}."


def _moves(actor: Actor) -> str:
    return f"moves {actor.direction}" if actor.direction else "stays"
