"""The feature store in training: which features of the towers and teachers of a stage are stored and read.

A frozen tower whose preprocessing is not random gives the same features in every epoch and every run. Media whose
features are in the store are neither decoded nor encoded. Other features are computed in the step, as without a store,
and written in the background. Stored features are equal up to float rounding, and exactly equal if the tower would get
the same items together.

A contrastive stage stores the pooled outputs of frozen towers, and the vectors that a frozen text tower makes of texts.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from vidtune.data.sample import MediaRef
from vidtune.features.cache import FeatureCache
from vidtune.features.collection import CollectionSpec, stream_spec, text_key, text_spec
from vidtune.media.feature_file import is_feature_file
from vidtune.media.kept.identity import MediaIdentities
from vidtune.media.preprocessing.kinds import Preprocessing, random_setting
from vidtune.models.distillation import Teacher
from vidtune.models.media_reading import is_trainable
from vidtune.models.text_alignment.contrast import TEXT_TOWER, Contrast
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Batch, Example, Item
from vidtune.recipe.types import Recipe, Stage
from vidtune.training.setup.starting_model import frozen_dtype
from vidtune.training.setup.teaching import Teachers

AUTO = "auto"
ENVIRONMENT = "VIDTUNE_FEATURES"


def store_folder(features: str | None, out: Path) -> Path | None:
    """Returns the folder of the feature store of a recipe; None: nothing is stored.

    Args:
        features: setting of the recipe.
        out: folder of the run.
    """
    if features != AUTO:
        return Path(features) if features else None
    return Path(os.environ.get(ENVIRONMENT) or out / "features")


@dataclass(frozen=True)
class Found:
    """Features of an item that were found in the store.

    Args:
        features: features of the tower as the connector takes them; None: they must be computed.
        key: key under which computed features are stored; None: they are not stored.
        taught, teacher_key: the same for the teacher of the stream.
    """

    features: Tensor | None = None
    key: str | None = None
    taught: Tensor | None = None
    teacher_key: str | None = None


@dataclass
class StoredFeatures:
    """The stored features of a stage. Without a store it is empty and does nothing.

    Args:
        towers, teachers: stored features of the towers and of the teachers, by stream.
        texts: stored vectors of a text tower; None: they are not stored.
        notes: messages for the user, to be shown once.
    """

    towers: dict[str, FeatureCache] = field(default_factory=dict)
    teachers: dict[str, FeatureCache] = field(default_factory=dict)
    texts: FeatureCache | None = None
    notes: list[str] = field(default_factory=list)
    _paths: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        store: Path,
        recipe: Recipe,
        stage: Stage,
        model: VideoLM,
        preprocessing: Mapping[str, Preprocessing],
        teachers: Teachers,
        contrast: Contrast | None = None,
    ) -> "StoredFeatures":
        """Open the collections of a stage.

        Args:
            store: folder of the feature store.
            model: model, frozen and cast as the stage needs it.
            preprocessing: preprocessing of each stream that occurs in the data.
            teachers: teachers of the stage.
            contrast: what a contrastive stage compares the towers with, frozen and cast as the stage needs it.
        """
        stored, identities = cls(), MediaIdentities()
        specs: dict[str, CollectionSpec] = {}
        for stream, how in preprocessing.items():
            tower = model.config.streams[stream]["tower"]
            if next(model.towers[tower].parameters(), None) is None:
                continue  # a model without this tower: its features come from files
            reason = unstorable(recipe, stage, stream, tower, how, is_trainable(model.towers[tower]))
            if reason is not None:
                stored.notes.append(f"{reason}: its features are computed anew each time")
            else:
                pooled = contrast is not None and stream not in contrast.config.mean
                specs[stream] = tower_spec(recipe, stage, stream, model, how, pooled)
                stored.towers[stream] = FeatureCache(store, specs[stream], identities)
        teachers.to(torch.device("cpu"), frozen_dtype(stage))
        for stream, teacher in teachers.towers.items():
            if stream in preprocessing and random_setting(preprocessing[stream]) is None:
                spec = teacher_spec(recipe, stage, stream, teacher, teachers.preprocessing[stream])
                stored.teachers[stream] = FeatureCache(store, spec, identities)
        if contrast is not None:
            stored._open_texts(store, recipe, stage, contrast.text_tower)
        for what, caches in (("", stored.towers), ("teacher of ", stored.teachers)):
            for stream, cache in caches.items():
                stored.notes.append(
                    f"features of {what}{stream}: {len(cache.collection):,} in {cache.collection.folder}"
                )
        return stored

    def _open_texts(self, store: Path, recipe: Recipe, stage: Stage, tower: nn.Module) -> None:
        if is_trainable(tower):
            self.notes.append(
                f"stage {stage.name!r}: {TEXT_TOWER} trains: vectors of texts are computed anew each time"
            )
            return
        self.texts = FeatureCache(store, text_spec(tower, {"system": recipe.system}))
        self.notes.append(f"vectors of texts: {len(self.texts.collection):,} in {self.texts.collection.folder}")

    def __enter__(self) -> "StoredFeatures":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as closing:  # all of them, also if one fails
            for cache in self._caches():
                closing.callback(cache.close)

    def find(self, ref: MediaRef) -> Found:
        """Returns the stored features of an item, and the keys under which missing ones are to be stored."""
        if is_feature_file(ref.path):
            return Found()
        found: list[Any] = []
        for cache in (self.towers.get(ref.stream), self.teachers.get(ref.stream)):
            key = cache.key(ref) if cache is not None else None
            features = cache.get(key) if cache is not None and key is not None else None
            if key is not None and features is None:
                self._paths[key] = ref.path
            found += [features, key if features is None else None]
        return Found(*found)

    def captions(self, examples: Sequence[Example]) -> list[Item] | None:
        """Returns the texts of examples, each as its stored vector or with the key under which that will be stored.

        None: nothing is stored, or the examples have no texts.
        """
        if self.texts is None:
            return None
        ids = [example.caption for example in examples if example.caption is not None]
        return [_stored(self.texts, Item(torch.from_numpy(text), len(text), key=text_key(text))) for text in ids]

    def filled(self, batch: Batch) -> Batch:
        """Returns a pack with what was stored since it was loaded; its tensors are on the CPU."""
        media = {
            stream: [_stored(self.towers[stream], item) for item in items] if stream in self.towers else items
            for stream, items in batch.media.items()
        }
        texts = self.texts
        captions = batch.captions and [item if texts is None else _stored(texts, item) for item in batch.captions]
        return replace(batch, media=media, captions=captions)

    def is_unchanged(self, ref: MediaRef, key: str) -> bool:
        """Returns whether a file still has the content that had this key before it was decoded."""
        caches = (self.towers.get(ref.stream), self.teachers.get(ref.stream))
        return any(cache is not None and cache.key(ref) == key for cache in caches)

    def keep(self, stream: str, key: str, features: Tensor) -> None:
        """Store the features of a tower."""
        self.towers[stream].add(key, features, self._paths.get(key, ""))

    def keep_text(self, key: str, vector: Tensor) -> None:
        """Store the vector of a text."""
        assert self.texts is not None  # else no text has a key
        self.texts.add(key, vector)

    def keep_taught(self, stream: str, key: str, features: Tensor) -> None:
        """Store the features of a teacher."""
        self.teachers[stream].add(key, features, self._paths.get(key, ""))

    def problems(self) -> list[str]:
        """Returns messages about failures since the last call. Training continues without the store."""
        found = [cache.problem for cache in self._caches() if cache.problem is not None]
        found += [
            f"{cache.collection.folder}: the disk is slower than the towers: not all features are stored this time"
            for cache in self._caches()
            if cache.left_out
        ]
        fresh = [problem for problem in found if problem not in self.notes]
        self.notes += fresh
        return fresh

    def _caches(self) -> list[FeatureCache]:
        texts = [] if self.texts is None else [self.texts]
        return [*self.towers.values(), *self.teachers.values(), *texts]


def _stored(cache: FeatureCache, item: Item) -> Item:
    """The item with its stored features if there are any, else as it is."""
    features = None if item.encoded or item.key is None else cache.get(item.key)
    return item if features is None else replace(item, values=features.clone(), encoded=True, key=None)


def unstorable(
    recipe: Recipe, stage: Stage, stream: str, tower: str, preprocessing: Preprocessing, trains: bool
) -> str | None:
    """Returns the reason why the features of a stream cannot be stored in a stage; None if they can.

    Args:
        tower: name of the tower of the stream.
        trains: whether this tower trains.
    """
    if trains:
        return f"stage {stage.name!r}: stream {stream}: towers.{tower} trains"
    setting = random_setting(preprocessing)
    if setting is not None:
        return f"stage {stage.name!r}: stream {stream}: its preprocessing is random (media.{stream}.{setting})"
    if stream in recipe.distillation:
        return f"stage {stage.name!r}: stream {stream}: it is distilled, which goes by the shape of its pixels"
    return None


def tower_spec(
    recipe: Recipe, stage: Stage, stream: str, model: VideoLM, preprocessing: Preprocessing, pooled: bool = False
) -> CollectionSpec:
    """Returns everything that determines the features of a stream in a stage, or the pooled output of its tower."""
    tower = model.towers[model.config.streams[stream]["tower"]]
    return stream_spec(model.config, stream, tower, preprocessing, stage.precision, {"system": recipe.system}, pooled)


def teacher_spec(
    recipe: Recipe, stage: Stage, stream: str, teacher: Teacher, preprocessing: Preprocessing
) -> CollectionSpec:
    """Returns everything that determines the features of a teacher. It runs without autocast, unlike towers."""
    origin = {"system": recipe.system, "stream": stream, "tower": "teacher"}
    spec = CollectionSpec.of(teacher, teacher.config, preprocessing, stage.precision, origin)
    return replace(spec, tower={"teacher": spec.tower, "cell": teacher.cell, "color": teacher.color.tolist()})
