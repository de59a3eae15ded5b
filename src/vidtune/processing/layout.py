"""Layouts: what replaces the tag of a medium in a prompt: tokens of its streams, and texts filled from its metadata.

A layout is data of a dialect, a sequence of texts and tokens:

``("<vid_start>", Tokens(), "<vid_end>")``
    brackets around all tokens of the stream
``(Tokens(), "\\nThe video lasts for {duration:.2f} seconds, and {frames} frames are sampled from it. ")``
    a sentence after them
``(Tokens(before="{second:.1f}s: ", frames=1),)``
    the time of every frame before its tokens

Texts of layouts are never supervised, and stand only where a stream reads something.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef
from vidtune.errors import MediaError, UserError
from vidtune.media.feature_file import is_feature_file
from vidtune.media.probe import MediaInfo
from vidtune.processing.readings import Reading, info_of
from vidtune.processing.stream_settings import StreamSettings
from vidtune.spelling import suggestion


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one stream in a layout, with texts around them; if the stream reads nothing, nothing is written.

    Args:
        stream: None: the stream of the tag; else one of its companions.
        before, after: texts around the tokens.
        frames: 0: all tokens together. Otherwise they are divided evenly among groups of so many frames, and the texts
            stand around every group; ``{second}`` is the time of its first frame, ``{number}`` counts groups from 1.
    """

    stream: str | None = None
    before: str = ""
    after: str = ""
    frames: int = 0


Layout = tuple[str | Tokens, ...]
"""Texts may contain ``{duration}`` (seconds), ``{frames}`` (how many are taken) and ``{times}`` (their seconds; the
format holds for each, as in ``{times:.1f}``)."""


class _Seconds(tuple[float, ...]):
    def __format__(self, spec: str) -> str:
        return ", ".join(format(second, spec) for second in self)


_FACTS: dict[str, Any] = {"duration": 1.0, "frames": 1, "times": _Seconds((0.5,))}
_GROUP_FACTS: dict[str, Any] = {"second": 0.5, "number": 1}


def media_facts(ref: MediaRef, settings: StreamSettings, media_info: Callable[[str], MediaInfo]) -> dict[str, Any]:
    """What texts of layouts may tell of a medium: field -> value; a field that is unknown is left out.

    Args:
        ref: the medium; of one without a media file, or with stored features in its place, nothing is known.

    Raises:
        SampleProblem: the metadata cannot be read, or the file is a picture in a stream of clips.
    """
    if not ref.path or is_feature_file(ref.path):
        return {}
    try:
        info = info_of(ref, settings, media_info)
        asked = [] if ref.part is None else ref.part.chosen(info.times)
    except (MediaError, ValueError) as error:
        raise SampleProblem("media cannot be read", str(error)) from None
    facts: dict[str, Any] = {"duration": info.duration} if info.duration > 0 else {}
    choose = getattr(settings.preprocessing, "frame_indices", None)
    if choose is not None and info.kind == "image":
        raise SampleProblem("wrong kind of file", f"{ref.path}: is a picture but stands in the stream '{ref.stream}'")
    if choose is not None and info.num_frames:
        taken = asked or choose(info)
        facts["frames"] = len(taken)
        if info.times.known:
            facts["times"] = _Seconds(info.times.starts[taken].tolist())
    return facts


def runs_of(
    layout: Layout,
    ref: MediaRef,
    readings: Sequence[Reading],
    settings: StreamSettings,
    media_info: Callable[[str], MediaInfo],
) -> tuple[str | tuple[int, int], ...]:
    """What replaces the tag of a media item, in order: texts, and (index of a reading, how many of its tokens).

    Args:
        settings: of the stream of the item.
        media_info: path -> metadata; called only if the layout needs them.

    Raises:
        SampleProblem: as `media_facts` and `lay_out`.
    """
    tokens = {read.stream: measured.tokens for read, measured in readings}
    asks = needs_metadata(layout) and any(tokens.values())
    facts = media_facts(ref, settings, media_info) if asks else {}
    places = {stream: place for place, stream in enumerate(tokens)}
    runs = lay_out(layout, ref.stream, tokens, facts)
    return tuple(run if isinstance(run, str) else (places[run[0]], run[1]) for run in runs)


def lay_out(
    layout: Layout, stream: str, tokens: Mapping[str, int], facts: Mapping[str, Any]
) -> list[str | tuple[str, int]]:
    """What replaces a tag, in order: texts, and (stream, how many of its tokens).

    Args:
        stream: stream of the tag.
        tokens: stream -> number of its tokens, of the streams that read something.
        facts: see `media_facts`.

    Raises:
        SampleProblem: a fact is not known, or frames do not divide the tokens.
    """
    found: list[str | tuple[str, int]] = []
    for segment in layout if any(tokens.values()) else ():
        if isinstance(segment, str):
            found.append(_filled(segment, stream, facts))
        elif number := tokens.get(name := segment.stream or stream, 0):
            groups = list(_groups(segment.frames, stream, facts)) if segment.frames else [facts]
            share, rest = divmod(number, len(groups))
            if rest:
                raise SampleProblem(
                    "frames do not divide the tokens",
                    f"{number} tokens of {name} do not divide evenly among {len(groups)} groups of {segment.frames} "
                    "frames, between which its layout writes text",
                )
            for group in groups:
                found += [_filled(segment.before, stream, group), (name, share), _filled(segment.after, stream, group)]
    return [part for part in found if part]


def _groups(size: int, stream: str, facts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The facts of every group of frames."""
    frames = _known("frames", stream, facts)
    if frames % size:
        raise SampleProblem(
            "frames do not divide", f"{frames} frames of {stream} cannot be divided into groups of {size} frames"
        )
    for number in range(frames // size):
        second = {"second": facts["times"][number * size]} if "times" in facts else {}
        yield {**facts, "number": number + 1, **second}


def _filled(text: str, stream: str, facts: Mapping[str, Any]) -> str:
    return text.format(**{field: _known(field, stream, facts) for field in _fields(text)})


def _known(field: str, stream: str, facts: Mapping[str, Any]) -> Any:
    if field not in facts:
        raise SampleProblem(
            "metadata unknown",
            f"the layout of <{stream}> tells the {field} of its frames and file, but the medium does not; give a video "
            "file with a frame rate, beside stored features too",
        )
    return facts[field]


def _fields(text: str) -> list[str]:
    return [field for _, field, _, _ in Formatter().parse(text) if field is not None]


def needs_metadata(layout: Layout) -> bool:
    """Whether texts or frames of a layout depend on the file."""
    return bool(_asked(layout))


def _asked(layout: Layout) -> set[str]:
    """Facts that a layout needs."""
    groups = {"frames" for segment in layout if isinstance(segment, Tokens) and segment.frames}
    return groups.union(*(_fields(text) for segment in layout for text in _texts(segment)))


def _texts(segment: str | Tokens) -> tuple[str, ...]:
    return (segment,) if isinstance(segment, str) else (segment.before, segment.after)


def check_layouts(
    layouts: Mapping[str, Layout],
    streams: Mapping[str, StreamSettings],
    companions: Mapping[str, tuple[str, ...]],
    system: str,
) -> None:
    """Raise UserError, in one line, for a layout that cannot be written.

    Args:
        streams: settings by stream name.
        companions: stream -> streams that read the same file; their tokens follow in its layout, in this order.
        system: name of the system, for the message.
    """
    for stream, layout in layouts.items():
        where = f"system {system}: layout of {stream!r}"
        _check_types(where, layout)
        named = [segment.stream or stream for segment in layout if isinstance(segment, Tokens)]
        for name in (stream, *named):
            if name not in streams:
                raise UserError(f"{where}: no stream {name!r}; {suggestion(name, streams)}")
        expected = [stream, *companions.get(stream, ())]
        if named != expected:
            raise UserError(
                f"{where}: it holds the tokens of {', '.join(named) or 'nothing'}; it must hold those of "
                f"{', '.join(expected)} in this order, each once"
            )
        for segment in layout:
            _check_segment(where, segment, streams)
        preprocessing = streams[stream].preprocessing
        if _asked(layout) - {"duration"} and not hasattr(preprocessing, "frame_indices"):
            raise UserError(f"{where}: it tells of frames, but its preprocessing {preprocessing.kind!r} takes none")


def _check_types(where: str, layout: object) -> None:
    """Raise UserError unless a layout is a tuple of texts and Tokens whose fields are of their types."""
    if not isinstance(layout, tuple):
        raise UserError(f"{where}: is {layout!r}; write a tuple of texts and Tokens, such as (Tokens(),)")
    for segment in layout:
        if not isinstance(segment, str | Tokens):
            raise UserError(f"{where}: holds {segment!r}; write texts and Tokens")
        if not isinstance(segment, Tokens):
            continue
        number = segment.frames
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise UserError(f"{where}: frames of Tokens is {number!r}; write a whole number, 0 or more")
        if not all(isinstance(text, str) for text in (segment.before, segment.after, segment.stream or "")):
            raise UserError(f"{where}: {segment!r}: stream, before and after are texts")


def _check_segment(where: str, segment: str | Tokens, streams: Collection[str]) -> None:
    in_groups = isinstance(segment, Tokens) and segment.frames > 0
    known = {**_FACTS, **(_GROUP_FACTS if in_groups else {})}
    for text in _texts(segment):
        try:
            unknown = next((field for field in _fields(text) if field not in known), None)
            if any("{" in (spec or "") for _, _, spec, _ in Formatter().parse(text)):
                raise ValueError("a format may hold no field of its own")
            if unknown is None:
                text.format(**known)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise UserError(f"{where}: {text!r} cannot be filled in: {error}") from None
        if unknown is not None:
            raise UserError(f"{where}: {text!r}: no field {{{unknown}}}; known: {', '.join(known)}")
        if tag := next((f"<{name}>" for name in streams if f"<{name}>" in text), None):
            raise UserError(f"{where}: {text!r} contains the tag {tag}; write Tokens() where tokens stand")
