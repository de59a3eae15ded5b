"""``POST /v1/frames``: the frames of a video or picture that a model sees, before their values are normalised."""

import asyncio
from typing import Any

from vidtune.data.sample import MediaRef
from vidtune.errors import UserError
from vidtune.media.pool import MediaPool
from vidtune.processing.batch import MediaSlot
from vidtune.processing.shown.item import shown_item
from vidtune.processing.shown.picture import picture_address
from vidtune.serving.problems import ApiProblem
from vidtune.serving.served import ServedModel

MOST_FRAMES = 64
"""Most frames of a medium that are sent; of more, so many are sent, spread over all of them."""
AT_ONCE = 2
"""Media that are read at the same time."""


class FrameReader:
    """Reads frames in processes of its own, a few at a time: they come beside the answers, not before them."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def frames(self, model: ServedModel, ref: MediaRef, where: str) -> dict[str, Any]:
        """Returns ``{"frames": [{"label": "1.23 s", "picture": "data:image/jpeg;base64,..."}]}``.

        Raises:
            ApiProblem: the file cannot be read, or the model has no such stream.
        """
        async with self._turns:
            return await asyncio.to_thread(_frames, model, ref, where)


def _frames(model: ServedModel, ref: MediaRef, where: str) -> dict[str, Any]:
    preprocessing = model.processor.preprocessing.get(ref.stream)
    if preprocessing is None:
        raise ApiProblem(400, f"{where}: the model reads {', '.join(model.processor.streams)}, no {ref.stream}")
    try:
        with MediaPool(1, model.media_timeout) as pool:
            shown = shown_item(MediaSlot(ref, 1), preprocessing, pool, MOST_FRAMES)
    except UserError as error:
        raise ApiProblem(400, f"{where}: {error}".replace(ref.path, "the file"), param=where) from None
    if shown.problem:
        raise ApiProblem(400, f"{where}: {shown.problem}", code="media_not_readable", param=where)
    return {"frames": [{"label": label, "picture": picture_address(picture)} for picture, label in shown.pictures]}
