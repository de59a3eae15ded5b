"""What can be asked and told about a scene: questions with one-word answers, and dense captions.

Captions and replies share their sentences ("the circle moves left."): what a model learns by telling, it can reply.
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
        text: as asked.
        answer: the one word that is right.
        reply: the sentence that holds it, which a model is trained to say.
        type: one of QUESTION_TYPES.
    """

    text: str
    answer: str
    reply: str
    type: str


def ask(scene: Scene, rng: random.Random) -> list[SceneQuestion]:
    """Questions of all types the scene allows, in random order: up to two about each shape, and two about all.

    Shapes that change colour are not asked for theirs, and a shape that one question names is the answer of no other
    but the order: each question needs the video even when all stand in one conversation.
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
    """Dense caption: how many shapes, then what each is and does, in the order in which they appear.

    Nothing in it is left to chance, so that all of it can be learned from the clip.

    Args:
        subject: what the sentences call the shapes by, one of SUBJECTS; telling the other is a matter of looking it up.
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
