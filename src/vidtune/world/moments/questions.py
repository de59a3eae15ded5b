"""Questions about the moments of a long video, and what is told of them."""

import random

from vidtune.world.moments.clips import LongClip, MomentEvent
from vidtune.world.questions import SceneQuestion

TELL_ALL = "What happens in this video?"
TELL_ONE = "What is shown?"


def tell(event: MomentEvent) -> str:
    """Returns a sentence about one event."""
    return f"{event.named} in minute {event.minute}."


def tell_all(clip: LongClip) -> str:
    """Returns all that happens, in the order of time; of a part without an event, that there is none."""
    return " ".join(tell(event) for event in clip.events) or f"nothing in minute {clip.first_minute}."


def ask_about_moments(clip: LongClip, rng: random.Random) -> list[SceneQuestion]:
    """Returns questions in random order: about each event its colour and its shape, or its minute.

    No question tells the answer of another one.
    """
    asked = []
    for event in clip.events:
        if rng.random() < 0.4:
            text = f"What minute is something {event.colour} shown in?"
            asked.append(SceneQuestion(text, str(event.minute), f"in minute {event.minute}.", "when"))
            continue
        for kind, answer in (("colour", event.colour), ("shape", event.shape)):
            text = f"What {kind} is shown in minute {event.minute}?"
            asked.append(SceneQuestion(text, answer, f"it is {'a ' * (kind == 'shape')}{answer}.", kind))
    rng.shuffle(asked)
    return asked


def ask_in_words(clip: LongClip, rng: random.Random) -> SceneQuestion:
    """Returns a question without a video, in which words tell what happens.

    A language model learns from it to find the minute that is asked for, as one that was trained on texts can already.
    """
    asked = rng.choice(ask_about_moments(clip, rng))
    return SceneQuestion(f"{tell_all(clip)} {asked.text}", asked.answer, asked.reply, asked.type)
