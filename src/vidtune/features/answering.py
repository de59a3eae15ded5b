"""The feature store in answering: media whose features are stored are neither decoded nor encoded."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from vidtune.data.sample import MediaRef
from vidtune.features.cache import FeatureCache
from vidtune.features.collection import stream_spec
from vidtune.features.tower_stream import TowerStream
from vidtune.media.clip_times import Part
from vidtune.media.feature_file import is_feature_file
from vidtune.media.kept.identity import MediaIdentities
from vidtune.media.preprocessing.kinds import as_read, random_setting
from vidtune.models.changed_towers import require_settings
from vidtune.models.video_lm import VideoLM
from vidtune.processing.processor import VideoLMProcessor


class AnsweringFeatures:
    """Features of the towers of a model, found in the store or computed and stored; see `generation.engine.Features`.

    They are computed as in a training step, so training and answering store and find the same.

    Args:
        store: folder of the feature store.
        model: the model, on its device and in its precision.
        processor: its processor, with the preprocessing by which media are read.
    """

    def __init__(self, store: Path, model: VideoLM, processor: VideoLMProcessor) -> None:
        self._store, self._model, self._processor = Path(store), model, processor
        self._identities = MediaIdentities()
        self._measures = model.config.measures()
        self._streams: dict[tuple[str, int | None], TowerStream | None] = {}

    def find(self, ref: MediaRef) -> Tensor | None:
        """Returns the stored features of a medium as the connector of its stream takes them; None: there are none."""
        stream = self._of(ref)
        return None if stream is None else stream.cache.find(ref)

    def key(self, ref: MediaRef) -> str | None:
        """Returns the item of a medium in the store; None: its features are not stored."""
        stream = self._of(ref)
        return None if stream is None else stream.cache.key(ref)

    def encode(self, ref: MediaRef, key: str, array: np.ndarray, extras: Mapping[str, np.ndarray] | None) -> Tensor:
        """Returns the features of a medium that was read; they are stored if its file still has the key.

        Args:
            array: preprocessed values.
            extras: extras that preprocessing gave; None: those of the annotation.
        """
        stream = self._of(ref)
        assert stream is not None
        [features] = stream.encode([array], [ref.extra_arrays() if extras is None else extras])
        if stream.cache.key(ref) == key:
            stream.cache.add(key, features, ref.path)
        return features

    def close(self) -> None:
        """Write what waits for the disk. Warns if features could not be stored."""
        for stream in self._streams.values():
            if stream is not None:
                stream.cache.close()
                if stream.cache.problem is not None:
                    warnings.warn(stream.cache.problem, stacklevel=2)

    def _of(self, ref: MediaRef) -> TowerStream | None:
        if is_feature_file(ref.path) or ref.frames_at:  # frames that one question names, no other asks for
            return None
        place = ref.stream, ref.num_frames
        if place not in self._streams:
            self._streams[place] = self._opened(*place)
        return self._streams[place]

    def _opened(self, name: str, frames: int | None) -> TowerStream | None:
        """The collection of a stream; None where there is no tower, or nothing worth storing.

        Args:
            frames: number of frames of its clips in the place of that of its preprocessing; None: that one.
        """
        config, preprocessing = self._model.config, self._processor.preprocessing[name]
        changes = () if frames is None else tuple(self._measures[name].tower_changes(frames).items())
        if frames is not None:
            preprocessing = as_read(preprocessing, part=Part(frames=frames))
        tower = self._model.tower_with(config.streams[name]["tower"], changes)
        weight = next(tower.parameters(), None)
        if weight is None or random_setting(preprocessing) is not None or getattr(preprocessing, "blind", False):
            return None
        dtype = str(weight.dtype).removeprefix("torch.")
        if changes:
            config = require_settings(config, {config.streams[name]["tower"]: dict(changes)})
        spec = stream_spec(config, name, tower, preprocessing, dtype, {"system": self._processor.system})
        cache = FeatureCache(self._store, spec, self._identities)
        return TowerStream.of(config, name, tower, preprocessing, cache)
