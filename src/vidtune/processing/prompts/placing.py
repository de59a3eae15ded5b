"""Where the tags of media stand in a conversation that does not say it, and what is asked where nothing is."""

import re
from collections.abc import Collection, Sequence
from zlib import crc32

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Turn
from vidtune.processing.prompts.format import PromptFormat


def media_tags(text: str, streams: Collection[str]) -> list[re.Match[str]]:
    """Matches of the tags ``<stream>`` in a text, in order; group 1 is the stream."""
    names = "|".join(re.escape(stream) for stream in streams)
    return list(re.finditer(f"<({names})>", text)) if streams else []


def with_tags(
    turns: Sequence[Turn],
    media: Sequence[str],
    prompt: PromptFormat,
    streams: Collection[str],
    target: Collection[str],
    id: str,
    switched_off: Collection[str] = (),
) -> list[Turn]:
    """The turns of an open question with the tags that its media lack, where the prompt format says.

    Args:
        media, streams, id, switched_off: see :func:`placed`.
        target: streams of a target; whoever asks writes the tag of its box.
    """
    turns = list(turns)
    aside = {*target, *(placement.stream for placement in prompt.placements)}
    before = [stream for stream in media if stream not in aside]
    if before and not any(media_tags(turn.text, set(streams) - aside) for turn in turns):
        first = next(number for number, turn in enumerate(turns) if turn.role == "user")
        turns[first] = Turn("user", prompt.with_tags(turns[first].text, before))
    return placed(turns, media, prompt, streams, id, switched_off)


def check_target(turns: Sequence[Turn], media: Collection[str], target: Collection[str]) -> None:
    """Raise SampleProblem where a stream of a target and its tag are not both given.

    Args:
        media: streams of the media.
        target: streams of a target.
    """
    for stream in target:
        tagged = any(f"<{stream}>" in turn.text for turn in turns)
        if tagged and stream not in media:
            give = "give one (target=, or --box), or leave out the tag"
            line = f"the text holds <{stream}>, but no {stream} is given; {give}"
        elif stream in media and not tagged:
            tags = dict.fromkeys(tag for turn in turns for tag in re.findall(r"<(\w+)>", turn.text))
            only = "".join(f", only <{tag}>" for tag in [tag for tag in tags if tag not in media][:1])
            line = f"a {stream} is given, but the text holds no <{stream}>{only}; write it where the target is named"
        else:
            continue
        raise SampleProblem("tags and media differ in number", line)


def placed(
    turns: Sequence[Turn],
    media: Sequence[str],
    prompt: PromptFormat,
    streams: Collection[str],
    id: str,
    switched_off: Collection[str] = (),
) -> list[Turn]:
    """The turns with a question where there is none, and with the tags for which the format has a placement.

    Where the format has several texts, the id of the sample chooses: the text is the same in every epoch and process.

    Args:
        media: streams of the media, in the order of their tags.
        streams: streams with a tag.
        id: id of the sample.
        switched_off: streams that read nothing; their tags get no text around them.
    """
    turns = list(turns)
    missing = set(media) - {tag[1] for turn in turns for tag in media_tags(turn.text, streams)}
    texts = {placement.stream: placement.texts for placement in prompt.placements}
    users = [number for number, turn in enumerate(turns) if turn.role == "user"]
    if not users:
        return turns
    blank = next((number for number in users if not _words(turns[number].text, streams)), None)
    asked = [text for text in prompt.questions if {tag[1] for tag in media_tags(text, streams)} == missing - {*texts}]
    if blank is not None and asked:
        turns[blank] = Turn("user", turns[blank].text + _chosen(asked, id, "question"))
    for number, stream in enumerate(media):
        if stream in missing and stream in texts:
            tagged = [place for place, turn in enumerate(turns) for _ in media_tags(turn.text, streams)]
            place = tagged[number - 1] if 0 < number <= len(tagged) else users[0]
            text = "{question}{tag}" if stream in switched_off else _chosen(texts[stream], id, stream)
            turns[place] = Turn("user", text.format(question=turns[place].text, tag=f"<{stream}>"))
    return turns


def _words(text: str, streams: Collection[str]) -> str:
    """What a text says beside its tags."""
    for tag in media_tags(text, streams):
        text = text.replace(tag[0], "")
    return text.strip()


def _chosen(texts: Sequence[str], id: str, what: str) -> str:
    return texts[crc32(f"{id}:{what}".encode()) % len(texts)]
