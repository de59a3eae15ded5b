"""Batches on their way to the device."""

from collections.abc import Mapping

import torch

from vidtune.media.preprocessing import Preprocessing
from vidtune.processing.packing import Batch


def to_device(batch: Batch, device: torch.device, preprocessing: Mapping[str, Preprocessing]) -> Batch:
    """The batch on a device.

    Args:
        preprocessing: per stream.
    """
    return batch.to(device)
