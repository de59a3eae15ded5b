"""Boxes of requests: one target in one video, for systems that take one."""

from collections.abc import Sequence

from vidtune.data.sample import MediaRef, Turn
from vidtune.errors import UserError
from vidtune.media.boxes.forms import GivenBox
from vidtune.media.boxes.located import LocatedTarget, locate
from vidtune.processing.asked_media import target_media
from vidtune.processing.processor import VideoLMProcessor
from vidtune.serving.loading import MediaLoader
from vidtune.serving.media import TakenMedium
from vidtune.serving.problems import ApiProblem


async def with_boxes(
    turns: Sequence[Turn], media: Sequence[TakenMedium], processor: VideoLMProcessor, loader: MediaLoader
) -> tuple[MediaRef, ...]:
    """Returns the media of a request; a box follows its video, once for each tag of it in the questions.

    Raises:
        ApiProblem: the model takes no boxes, there are several, or the box is not in the video.
    """
    found: list[MediaRef] = []
    if sum(one.box is not None for one in media) > 1:
        raise ApiProblem(400, "a request holds one box at most", param="messages")
    for one in media:
        found.append(one.ref)
        if one.box is None:
            continue
        streams = processor.target
        if len(streams) != 2 or not set(streams) <= set(processor.streams):
            message = f"{one.where}: the model takes no boxes, only {', '.join(processor.streams)}"
            raise ApiProblem(400, message, code="no_boxes", param=one.where)
        info = await loader.check(one)
        try:
            given = GivenBox(tuple(one.box.box), one.box.seconds, one.box.frame, one.box.form)  # type: ignore[arg-type]
            target = LocatedTarget(one.ref.path, info, locate(one.ref.path, info, given, "box"))
        except UserError as error:
            raise ApiProblem(400, f"{one.where}: {error}".replace(one.ref.path, one.said), param=one.where) from None
        most = int(processor.preprocessing[streams[1]].output_shape()[1])
        asked, track = target_media(target, (streams[0], streams[1]), most)
        first, *later = (turn.text.count(f"<{asked.stream}>") for turn in turns if turn.role == "user")
        found += [*[asked] * max(1, first), track, *[asked] * sum(later)]
    return tuple(found)
