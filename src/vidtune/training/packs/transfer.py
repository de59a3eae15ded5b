"""Copies packs to the device while the one before is computed; grey levels are normalised on the device."""

from collections.abc import Mapping

import torch

from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.processing.batch import Batch


def to_device(batch: Batch, device: torch.device, preprocessing: Mapping[str, Preprocessing]) -> Batch:
    """Returns the batch on a device, with media as the towers need them. From pinned memory the copy is asynchronous.

    Args:
        preprocessing: preprocessing of each stream.
    """
    return batch.to(device).to_float(preprocessing)


class Transfer:
    """Copies packs to the device. On CUDA the next pack is copied while the current one is computed::

        batch = transfer.take(pack.batch)
        ...  # launch forward and backward
        transfer.begin(packs.upcoming())

    ``begin`` pins the batch and copies it on a CUDA stream of its own. Neither ``begin`` nor ``take`` waits for the
    device. On other devices ``begin`` does nothing.

    Args:
        device: device of the packs.
        preprocessing: preprocessing of each stream.
    """

    def __init__(self, device: torch.device, preprocessing: Mapping[str, Preprocessing]) -> None:
        self.device, self.preprocessing = device, preprocessing
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._begun: tuple[Batch, Batch] | None = None

    def begin(self, batch: Batch | None) -> None:
        """Start copying the batch that ``take`` will need next. Does nothing for None."""
        if self._stream is None or batch is None:
            return
        self._begun = batch, self._copy(batch)

    def take(self, batch: Batch) -> Batch:
        """Returns the batch on the device: the copy that was begun for this batch, else a new one."""
        if self._stream is None:
            return to_device(batch, self.device, self.preprocessing)
        if self._begun is not None and self._begun[0] is batch:
            moved, self._begun = self._begun[1], None
        else:
            moved = self._copy(batch)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._stream)
        for tensor in moved.tensors():
            # Its memory belongs to the other stream: keep it until this stream is done.
            tensor.record_stream(current)
        return moved

    def _copy(self, batch: Batch) -> Batch:
        with torch.cuda.stream(self._stream):
            pinned = batch.map(lambda tensor: tensor.pin_memory())
            return to_device(pinned, self.device, self.preprocessing)
