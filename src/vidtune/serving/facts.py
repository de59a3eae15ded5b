"""What a client can know of a served model: what it reads, how it writes moments, whether it takes a box."""

from typing import Any

from vidtune.processing.processor import VideoLMProcessor
from vidtune.registry import SYSTEMS


def facts_of(processor: VideoLMProcessor) -> dict[str, Any]:
    """Returns facts of a model as a JSON value.

    ``system``; ``media``: types of the parts of a message that it reads; ``times``: name of the rule by which it writes
    moments, such as ``"percent"``, or null; ``box``: name of the tag that stands for a box in a question, or null.
    """
    target = SYSTEMS[processor.system].dialect.target
    return {
        "system": processor.system,
        "media": [f"{stream}_url" for stream in ("video", "image") if stream in processor.streams],
        "times": processor.times,
        "box": target[0] if target is not None and set(target) <= set(processor.streams) else None,
    }
