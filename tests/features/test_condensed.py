"""Stored features after a part of the connector that has no parameters, and features of more than two dimensions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_parts import made_up_parts, model_of
from made_up_preprocessing import TimedRows
from tiny_models import TOWER

from vidtune.data.sample import MediaRef
from vidtune.features.cache import FeatureCache
from vidtune.features.collection import CollectionSpec
from vidtune.features.imported import import_folder
from vidtune.features.tower_stream import TowerStream
from vidtune.features.verify import verify
from vidtune.media.feature_file import feature_shape, read_features
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing
from vidtune.models.towers.clip import ClipTowerConfig
from vidtune.processing.batch import Item
from vidtune.processing.stream_settings import Measure, Measured

SPANS = torch.tensor([[0.0, 0.5], [0.5, 1.0]])


@pytest.fixture(autouse=True)
def parts():
    with made_up_parts():
        yield


def spec_of(model, steps=None, **changes) -> CollectionSpec:
    config = model.config
    given = {"connector": config.connector("rows"), **changes}
    steps = steps or ImagePreprocessing()
    return CollectionSpec.of(model.towers["rows"], config.tower("rows"), steps, "float32", {}, **given)


@pytest.mark.parametrize("by_spans", [False, True], ids=["", "with extras"])
@pytest.mark.parametrize("rows", [(6, 6), (6, 9)])
def test_items_whose_condensed_features_are_stored_are_those_that_are_encoded(by_spans, rows, tmp_path: Path):
    model = model_of("merging", spans=by_spans, group=3)
    extras = {"spans": SPANS} if by_spans else {}
    items = [
        Item(torch.randn(number, 3), model.config.num_tokens("rows", (number, 3)), extras=extras) for number in rows
    ]
    assert [item.num_tokens for item in items] == [2 if by_spans else number // 3 for number in rows]
    expected = list(model.encode_items("rows", items))
    cache = FeatureCache(tmp_path, spec_of(model))
    steps = ImagePreprocessing()
    stream = TowerStream("rows", model.towers["rows"], steps, cache, connector=model.config.connector("rows"))
    for number, item in enumerate(items):
        arrays = {name: extra.numpy() for name, extra in extras.items()}
        [features] = stream.encode([item.values.numpy()], [arrays])
        assert features.shape == (item.num_tokens, 4)
        cache.add(str(number), features)
    cache.close()
    kept = []
    model.keep_features = lambda stream, key, block: kept.append((key, tuple(block.shape)))
    stored = [Item(cache.get("0"), items[0].num_tokens, encoded=True)]  # type: ignore[arg-type]
    fresh = [Item(item.values, item.num_tokens, extras=extras, key="k") for item in items[1:]]
    for block, wanted in zip(model.encode_items("rows", [*stored, *fresh]), expected, strict=True):
        torch.testing.assert_close(block, wanted, atol=1e-6, rtol=0)
    assert kept == [("k", (items[1].num_tokens, 4))]


def test_the_identity_of_features_has_what_condenses_them_and_nothing_else():
    plain = spec_of(model_of("adjacent"))
    assert plain.tower == {"kind": "RowsConfig", "hidden_size": 4}
    assert plain.key == spec_of(model_of("adjacent"), connector=None).key
    merged = spec_of(model_of("merging"))
    assert merged.tower["condensed"] == {"kind": "MergingConfig", "group": 2, "spans": False}
    other = spec_of(model_of("merging", group=3))
    tapped = spec_of(model_of("adjacent"), taps=(1, 2))
    assert len({plain.key, merged.key, other.key, tapped.key}) == 4
    assert tapped.tower["taps"] == [1, 2]


def test_features_that_depend_on_extras_are_kept_apart(tmp_path: Path):
    (tmp_path / "clip").write_text("a file")
    one, other = (MediaRef("rows", str(tmp_path / "clip"), extras=(("spans", ((0, end),)),)) for end in (0.5, 1.0))
    bare = MediaRef("rows", str(tmp_path / "clip"))
    named = replace(one, frames=("a.png",))
    for number, (spec, keys) in enumerate(
        [
            (spec_of(model_of("merging", spans=True)), 4),
            (spec_of(model_of("merging")), 1),
            (spec_of(model_of("adjacent"), TimedRows()), 4),
        ]
    ):
        cache = FeatureCache(tmp_path / str(number), spec)
        assert len({cache.key(ref) for ref in (one, other, bare, named)}) == keys
        cache.close()


def test_stored_features_are_measured_as_they_are_stored():
    model = model_of("merging", group=3)
    assert model.config.feature_shape("rows", (9, 3)) == (3, 4)
    measure = Measure(tower={"type": "rows"}, connector={"type": "merging", "group": 3})
    assert measure((9, 3)) == Measured(3, None, 1.5)
    assert measure.of_features((3, 4)).tokens == 3
    assert [tuple(block.shape) for block in model.encode_zeros("rows", 2, through_tower=False)] == [(2, 32)] * 2
    assert [tuple(block.shape) for block in model.encode_zeros("rows", 2)] == [(2, 32)] * 2


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5)])
def test_features_of_more_dimensions_are_stored_imported_and_verified(shape, tmp_path: Path):
    tower = ClipTowerConfig(**TOWER)
    spec = CollectionSpec.of(tower.build(), tower, ImagePreprocessing(), "bfloat16", {}, taps=(0, 1))
    features = torch.randn(shape)
    with_store = tmp_path / "store"
    cache = FeatureCache(with_store, spec)
    cache.add("item", features)
    cache.close()
    assert torch.equal(cache.get("item"), features.bfloat16())  # type: ignore[arg-type]
    folder = tmp_path / "published"
    folder.mkdir()
    np.save(folder / "a.npy", features.numpy())
    np.save(folder / "b.npy", features.numpy()[..., :-1])
    np.save(folder / "c.npy", features.numpy())
    report = import_folder(folder, with_store, "imported")
    assert (report.width, report.imported, len(report.failed)) == (shape[-1], 2, 1)
    assert [found.problems for found in verify(with_store)] == [[], []]
    imported = str(with_store / "imported" / "a.safetensors")
    assert feature_shape(imported) == feature_shape(str(folder / "a.npy")) == shape
    assert np.array_equal(read_features(imported), features.numpy())
