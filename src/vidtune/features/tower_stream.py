"""A stream with its frozen tower and its place in the store, and what is to be extracted with it.

Legend: B items encoded together, N tokens, C tower width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from vidtune.data.sample import MediaRef
from vidtune.features.cache import FeatureCache
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.models.condensing import condensed
from vidtune.models.config import VideoLMConfig
from vidtune.processing.stream_settings import condenses


@dataclass(frozen=True)
class TowerStream:
    """A stream and the frozen tower that encodes it.

    Args:
        name: name of the stream.
        tower: tower in eval mode, with its dtype and on its device.
        preprocessing: preprocessing that makes the input of the tower from a file.
        cache: features of the tower in the store.
        taps: hidden states of the tower that are stored; empty: its output.
        connector: config of the connector, which may condense the features.
        pooled: whether the pooled output of the tower is stored, and not its features.
    """

    name: str
    tower: nn.Module
    preprocessing: Preprocessing
    cache: FeatureCache
    taps: tuple[int, ...] = ()
    connector: Any = None
    pooled: bool = False

    @classmethod
    def of(
        cls,
        config: VideoLMConfig,
        stream: str,
        tower: nn.Module,
        preprocessing: Preprocessing,
        cache: FeatureCache,
        pooled: bool = False,
    ) -> "TowerStream":
        """Returns a stream of a model with its frozen tower."""
        taps, connector = config.taps(stream), config.connector_of(stream)
        return cls(stream, tower, preprocessing, cache, taps, connector, pooled)

    @property
    def takes_lists(self) -> bool:
        """Whether the tower encodes items of different shapes together."""
        return getattr(self.tower, "takes_lists", False)

    @torch.no_grad()
    def encode(
        self, arrays: Sequence[np.ndarray], extras: Sequence[Mapping[str, np.ndarray]] | None = None
    ) -> list[Tensor]:
        """Returns the features of items, computed as in a training step. A long item is never in float as a whole.

        Args:
            arrays: preprocessed items; all have the same shape unless the tower takes lists.
            extras: extras of each item by name; None: there are none.

        Shape: B of *item -> B of (N, C); with K taps (K, N, C); what the connector makes of it if it condenses; pooled
            (C,)
        """
        weight = next(self.tower.parameters())
        values = [torch.as_tensor(array).to(weight.device) for array in arrays]
        with torch.autocast(weight.device.type, torch.bfloat16, enabled=weight.dtype == torch.bfloat16):
            encode = cast(Any, self.tower).pooled if self.pooled else self.tower
            options = {"taps": self.taps} if self.taps and not self.pooled else {}

            def run(parts: Tensor | Sequence[Tensor]) -> list[Tensor]:
                items = [self.preprocessing.to_float(part).to(weight.dtype) for part in parts]
                return list(encode(items if self.takes_lists else torch.stack(items), **options))

            if self.pooled or not condenses(self.connector):
                return run(values)
            given = [
                {name: torch.as_tensor(extra).to(weight.device) for name, extra in each.items()}
                for each in (extras or [{} for _ in values])
            ]
            return condensed(self.tower, run, self.connector, values, given)


@dataclass(frozen=True)
class TextVectors:
    """Texts whose vectors are to be stored.

    Args:
        read: function that makes the vectors of token ids, n of (T,) -> (n, W).
        cache: vectors of the text tower in the store.
        ids: token ids of each text, (T,) int64.
    """

    read: Callable[[Sequence[Tensor]], Tensor]
    cache: FeatureCache
    ids: Sequence[np.ndarray]


@dataclass(frozen=True)
class Extraction:
    """An extraction to run.

    Args:
        title: what it is for, for users.
        streams: streams by name.
        refused: one line for every stream that is not extracted, with the reason.
        refs: media that the streams read.
        texts: texts that a text tower reads; None: none does.
    """

    title: str
    streams: dict[str, TowerStream]
    refused: list[str] = field(default_factory=list)
    refs: list[MediaRef] = field(default_factory=list)
    texts: TextVectors | None = None


@dataclass
class StreamReport:
    """Result of extracting a stream.

    Args:
        stored: number of files whose features were stored now.
        found: number of files whose features were in the store.
        absent: number of files without content for the stream, such as files without sound.
        failed: path and reason of each file that cannot be read.
    """

    stored: int = 0
    found: int = 0
    absent: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)

    @property
    def is_useful(self) -> bool:
        """Whether any file could be read."""
        return bool(self.stored or self.found or self.absent)


def reads_alike(one: Preprocessing, other: Preprocessing) -> bool:
    """Whether two preprocessings start from the same pixels or the same waveform, so that a file is decoded once."""
    if hasattr(one, "load_item") or hasattr(other, "load_item"):  # what is read depends on the extras of each item
        return False
    owner: Any = next(kind for kind in type(one).__mro__ if "read" in vars(kind))
    same = getattr(type(other), "read", None) is owner.read
    return same and all(getattr(one, name) == getattr(other, name) for name in owner.model_fields)
