"""Questions and answers about a clip with events: when an event happens, what happens in a time span, all events.

Times are written as marks, ``<s0>`` for the start of event 0 and ``<e0>`` for its end; the annotation gives the time of
each mark, as in published training data. The three tasks use the words of the published evaluation of
arXiv:2411.19772, with its spelling mistake "fromat".
"""

import random

from vidtune.world.events import EventClip, TimedEvent

ALL_EVENTS = (
    "Could you please detail the events that took place during different time segments in the video? "
    "List the events in the format: From xx to xx, event1. \n From xx to xx, event2. \n ..."
)
WHEN = (
    "At which time interval can we find {} taking place in the video? Give the timestamps in the fromat: From xx to xx."
)
WHAT = "Can you describe what occurred from {} to {} in the video? Please give the event description directly."
EACH = {
    "seen": "Say what is seen in the video, and when.",
    "heard": "Say which sounds are heard in the video, and when.",
    "spoken": "Say which words are said in the video, and when.",
}
HOW_MANY = "How many events are there in the video?"
FIRST = "What happens first in the video?"
NEXT = "What happens after {}?"
NOTHING = "nothing."
NUMBERS = {2: "two", 3: "three", 4: "four"}
# The published evaluation has an additional blank before two of its questions.
MEDIA_TAG = "<video>\n"
_OPENINGS = {"all": MEDIA_TAG + " ", "what": MEDIA_TAG + " ", "when": MEDIA_TAG}

Turn = tuple[str, str]
Tokens = dict[str, float]


def marks(clip: EventClip) -> Tokens:
    """Returns the time in seconds of every mark."""
    spans = [(f"<s{k}>", event.start, f"<e{k}>", event.end) for k, event in enumerate(clip.events)]
    return {mark: moment for start, s, end, e in spans for mark, moment in ((start, s), (end, e))}


def tell_all(clip: EventClip) -> list[Turn]:
    """Returns one turn: a line for each event, in the order of time."""
    lines = [f"From {_span(k)}, {event.sentence}" for k, event in enumerate(clip.events)]
    return [(_OPENINGS["all"] + ALL_EVENTS, "\n".join(lines))]


def ask_when_and_what(clip: EventClip, rng: random.Random) -> list[Turn]:
    """Returns a turn for each event in random order; no turn contains the answer of another."""
    turns: list[tuple[str, Turn]] = []
    for number, event in enumerate(clip.events):
        if rng.random() < 0.6:
            turns.append(("when", (WHEN.format(named(event)), f"From {_span(number)}.")))
        else:
            turns.append(("what", (WHAT.format(f"<s{number}>", f"<e{number}>"), event.sentence)))
    rng.shuffle(turns)
    first, (question, answer) = turns[0]
    return [(_OPENINGS[first] + question, answer), *(turn for _, turn in turns[1:])]


def tell_each(clip: EventClip, sense: str) -> list[Turn]:
    """Returns one turn: a sentence with its time for everything that one sense perceives; none if there is nothing."""
    said = [(event.told_by(sense), number) for number, event in enumerate(clip.events)]
    told = [f"{thing} from {_span(number)}." for thing, number in said if thing is not None]
    return [(MEDIA_TAG + EACH[sense], " ".join(told))] if told else []


def _span(number: int) -> str:
    return f"<s{number}> to <e{number}>"


def ask_in_order(clip: EventClip, rng: random.Random) -> list[Turn]:
    """Returns questions about the number of events, and about the first event or the one after another."""
    told = [f"From {_span(k)}, {event.sentence}" for k, event in enumerate(clip.events)]
    place = rng.randrange(len(clip.events))
    after = told[place + 1] if place + 1 < len(told) else NOTHING
    turns = [
        (HOW_MANY, f"{NUMBERS[len(told)]}."),
        (FIRST, told[0]) if rng.random() < 0.5 else (NEXT.format(named(clip.events[place])), after),
    ]
    rng.shuffle(turns)
    return _with_media(turns)


def named(event: TimedEvent) -> str:
    """Returns the event as a part of a question."""
    return event.sentence.removesuffix(".")


def _with_media(turns: list[Turn]) -> list[Turn]:
    (question, answer), *others = turns
    return [(MEDIA_TAG + question, answer), *others]
