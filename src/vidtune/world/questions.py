"""Questions with one-word answers about a scene, and dense captions of it.

Captions and replies use the same sentences ("the circle moves left."), so that a model learns replies from captions.
"""

import random
from dataclasses import dataclass

from vidtune.world.scene import NUMBERS, Actor, Scene

QUESTION_TYPES = ("colour", "shape", "direction", "count", "order")
SUBJECTS = ("shape", "colour")


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
    questions = [SceneQuestion("How many shapes are there?", number, _how_many(scene), "count")]
    for actor in scene.actors:
        named = actor.direction is not None and rng.random() < 0.6
        if named:
            text = f"Which way does the {actor.shape} move?"
            questions.append(SceneQuestion(text, str(actor.direction), _way(actor, "shape"), "direction"))
        if actor.turns is not None:
            continue
        if named or rng.random() < 0.3:
            text = f"What colour is the {actor.shape}?"
            questions.append(SceneQuestion(text, actor.colour, _identity(actor, "shape"), "colour"))
        else:
            questions.append(
                SceneQuestion(f"Which shape is {actor.colour}?", actor.shape, _identity(actor, "colour"), "shape")
            )
    if len(scene.actors) > 1:
        place, actor = rng.choice((("first", scene.actors[0]), ("last", scene.actors[-1])))
        reply = f"the {actor.shape} appears {place}."
        questions.append(SceneQuestion(f"Which shape appears {place}?", actor.shape, reply, "order"))
    rng.shuffle(questions)
    return questions


def describe(scene: Scene, subject: str) -> str:
    """Returns a dense caption: the number of shapes, then what each is and does, in the order of appearance.

    It contains nothing random, so that all of it can be learned from the clip.

    Args:
        scene: the scene.
        subject: property by which the sentences name the shapes, one of SUBJECTS; the sentences give the other.
    """
    told = [_how_many(scene)]
    for actor in scene.actors:
        told += [_identity(actor, subject), _way(actor, subject)]
    return " ".join(told)


def _how_many(scene: Scene) -> str:
    return f"{NUMBERS[len(scene.actors)]} shape{'' if len(scene.actors) == 1 else 's'}."


def _identity(actor: Actor, subject: str) -> str:
    if subject == "shape":
        return f"the {actor.shape} is {actor.colour}."
    return f"the {actor.colour} shape is a {actor.shape}."


def _way(actor: Actor, subject: str) -> str:
    name = actor.shape if subject == "shape" else f"{actor.colour} shape"
    return f"the {name} {f'moves {actor.direction}' if actor.direction else 'stays'}."
