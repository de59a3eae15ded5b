"""Questions about one target of a clip, about a clip without a target, and what is said of both.

``<bbox>`` stands for the target, as in the annotations of arXiv:2406.00258.
"""

import random

from vidtune.world.questions import SceneQuestion, say_colour, say_number, say_way
from vidtune.world.scene import NUMBERS, Actor, Scene

TELL = "What is <bbox> doing in this video?"


def say_of_target(actor: Actor) -> str:
    """Returns a sentence that tells all about one actor."""
    return f"the {actor.colour} {actor.shape} {f'moves {actor.direction}' if actor.direction else 'stays'}."


def ask_of_target(actor: Actor) -> list[SceneQuestion]:
    """Returns one question of each type; none about the direction of an actor that stays."""
    asked = [
        SceneQuestion("What colour is <bbox>?", actor.colour, f"it is {actor.colour}.", "colour"),
        SceneQuestion("Which shape is <bbox>?", actor.shape, f"it is a {actor.shape}.", "shape"),
    ]
    if actor.direction is not None:
        text = "Which way does <bbox> move?"
        asked.append(SceneQuestion(text, actor.direction, f"it moves {actor.direction}.", "direction"))
    return asked


def ask_in_words(actor: Actor, rng: random.Random) -> SceneQuestion:
    """Returns a question without a video, in which words in random order stand for the target.

    A language model learns from it where an answer comes from, as one that was trained on texts knows already.
    """
    told = SceneQuestion(TELL, "", say_of_target(actor), "all")
    asked = told if rng.random() < 0.5 else rng.choice(ask_of_target(actor))
    words = [actor.colour, actor.shape, actor.direction or "stays"]
    at_the_tag, behind = (" ".join(rng.sample(words, 3)) for _ in range(2))
    left_out = rng.randrange(4)  # one of both in half of the texts
    text = asked.text.replace("<bbox>", "it" if left_out == 0 else at_the_tag)
    return SceneQuestion(text if left_out == 1 else f"{text} {behind}", asked.answer, asked.reply, asked.type)


def describe_targets(scene: Scene) -> str:
    """Returns a dense caption in reading order, without anything random."""
    told = (f"{say_colour(actor)} {say_way(actor)}" for actor in scene.actors)
    return " ".join([say_number(scene), *told])


def ask_of_scene(scene: Scene, rng: random.Random) -> list[SceneQuestion]:
    """Returns questions without a target in random order: how many shapes there are, and one about each of them.

    A shape that one question names is not the answer of another one.
    """
    number = NUMBERS[len(scene.actors)]
    asked = [SceneQuestion("How many shapes are there?", number, f"{number} shapes.", "count")]
    for actor in scene.actors:
        if actor.direction is not None and rng.random() < 0.5:
            reply = f"the {actor.shape} moves {actor.direction}."
            text = f"Which way does the {actor.shape} move?"
            asked.append(SceneQuestion(text, actor.direction, reply, "direction"))
        else:
            reply = f"the {actor.shape} is {actor.colour}."
            asked.append(SceneQuestion(f"What colour is the {actor.shape}?", actor.colour, reply, "colour"))
    rng.shuffle(asked)
    return asked
