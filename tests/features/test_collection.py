"""A collection keeps what it was given, whoever writes and whatever is killed."""

import json
import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from feature_world import PREPROCESSING, stream_into, tower, write_clip
from safetensors import safe_open
from torch import Tensor

from vidtune.data.sample import MediaRef
from vidtune.errors import UserError
from vidtune.features.cache import FeatureCache
from vidtune.features.collection import Collection, CollectionSpec, append_records
from vidtune.features.identity import weights_hash
from vidtune.features.shards import MappedShard, read_header, write_shard
from vidtune.media.kept.identity import BLOCK, MediaIdentities
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.media.preprocessing.resize_keeping_aspect import AnyPixelVideoPreprocessing
from vidtune.media.preprocessing.resize_to_square import VideoPreprocessing

SPEC = CollectionSpec("w", {}, {}, "float32")


def features_of(item: str, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(item.encode()))
    return torch.randn(3, 5, generator=generator).to(dtype)


def filled(store: Path, items: str, dtype: str = "float32") -> Collection:
    """A collection with a shard for every word of items."""
    spec = CollectionSpec("w", {}, {}, dtype)
    collection = Collection.create(store, spec)
    for word in items.split():
        kind = getattr(torch, dtype)
        collection.write({item: features_of(item, kind) for item in word}, dict.fromkeys(word, "/film.mp4"))
    return collection


def shards(collection: Collection) -> list[Path]:
    return sorted((collection.folder / "shards").iterdir())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_features_come_back_bit_for_bit_in_their_dtype(tmp_path: Path, dtype: str) -> None:
    filled(tmp_path, "ab c", dtype)
    again = Collection.create(tmp_path, CollectionSpec("w", {}, {}, dtype))
    assert sorted(again.items()) == ["a", "b", "c"]
    for item in "abc":
        found = again.get(item)
        assert found is not None and found.dtype == getattr(torch, dtype)
        assert torch.equal(found, features_of(item, found.dtype))
    assert again.get("d") is None


def test_index_and_shards_are_read_by_other_programs(tmp_path: Path) -> None:
    collection = filled(tmp_path, "ab c")
    about = json.loads((collection.folder / "collection.json").read_text())
    assert about["made_by"] == {"weights": "w", "tower": {}, "preprocessing": {}, "dtype": "float32"}
    lines = [json.loads(line) for line in (collection.folder / "index.jsonl").read_text().splitlines()]
    assert [(line["item"], line["shape"], line["source"]) for line in lines] == [
        (item, [3, 5], "/film.mp4") for item in "abc"
    ]
    for line in lines:
        with safe_open(collection.folder / "shards" / line["shard"], "np") as file:
            assert np.array_equal(file.get_tensor(line["tensor"]), features_of(line["item"]).numpy())


def test_features_are_mapped_not_read_and_a_reader_cannot_change_them(tmp_path: Path) -> None:
    collection = filled(tmp_path, "a")
    first = Collection(collection.folder).get("a")
    assert first is not None
    first.zero_()
    found = Collection(collection.folder).get("a")
    assert found is not None and torch.equal(found, features_of("a"))
    maps = Path("/proc/self/maps").read_text()
    assert shards(collection)[0].name in maps


def test_shard_that_its_writer_could_not_list_is_found_and_listed(tmp_path: Path) -> None:
    collection = filled(tmp_path, "ab c")
    index = collection.folder / "index.jsonl"
    whole = index.read_text().splitlines(keepends=True)
    index.write_text(whole[0] + whole[1] + whole[2][:20])  # torn by a full disk
    again = Collection(collection.folder)
    assert sorted(again.items()) == ["a", "b", "c"]
    assert torch.equal(again.get("c"), features_of("c"))
    listed = [line for line in index.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
    assert {json.loads(line)["item"] for line in listed} == {"a", "b", "c"}
    assert sorted(Collection(collection.folder).items()) == ["a", "b", "c"]


def test_half_written_shard_is_never_read_and_an_old_one_removed(tmp_path: Path) -> None:
    collection = filled(tmp_path, "a")
    content = shards(collection)[0].read_bytes()
    young, old = (collection.folder / "shards" / f".{name}.safetensors.{name * 16}.partial" for name in ("aa", "bb"))
    for path in (young, old):
        path.write_bytes(content)
    os.utime(old, (0, 0))
    assert Collection(collection.folder).items() == ["a"]
    assert young.exists() and not old.exists()


@pytest.mark.parametrize("damage", ["gone", "cut", "header", "empty"])
def test_damaged_shard_is_a_miss_and_what_is_written_then_is_found(tmp_path: Path, damage: str) -> None:
    collection = filled(tmp_path, "a b")
    path = next(path for path in shards(collection) if "a" in read_header(path).places)
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": content[:-1], "header": b"\xff" * 9 + content[9:], "empty": b""}[damage])
    again = Collection(collection.folder)
    assert again.get("a") is None
    assert torch.equal(again.get("b"), features_of("b"))
    again.write({"a": features_of("a")}, {})
    assert torch.equal(again.get("a"), features_of("a"))
    assert torch.equal(Collection(collection.folder).get("b"), features_of("b"))


def test_damaged_lines_of_the_index_and_a_damaged_description_are_made_again(tmp_path: Path) -> None:
    collection = filled(tmp_path, "a b")
    index = collection.folder / "index.jsonl"
    whole = index.read_bytes()
    index.write_bytes(b"\xff{" + whole[2:])
    with pytest.warns(UserWarning, match=r"index\.jsonl: damaged; 1 items found in \w+\.safetensors"):
        assert sorted(Collection(collection.folder).items()) == ["a", "b"]
    described = collection.folder / "collection.json"
    about = json.loads(described.read_text())
    described.write_text("[" * 5000)
    with pytest.warns(UserWarning, match=r"collection\.json: damaged; written again"):
        again = Collection.create(tmp_path, SPEC)
    assert again.about["made_by"] == about["made_by"] and sorted(again.items()) == ["a", "b"]


def test_pipes_and_links_in_the_place_of_shards_are_misses(tmp_path: Path) -> None:
    collection = filled(tmp_path, "a b")
    one, other = shards(collection)
    other.rename(tmp_path / "outside.safetensors")
    other.symlink_to(tmp_path / "outside.safetensors")
    one.unlink()
    os.mkfifo(one)
    with pytest.warns(UserWarning, match=r"safetensors: damaged \(.*(named pipe|leads out)"):
        again = Collection(collection.folder)
        assert again.get("a") is None and again.get("b") is None


def test_index_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    collection = filled(tmp_path, "a")
    outside = tmp_path / "outside.safetensors"
    write_shard(outside, {"b": features_of("b")}, {})
    append_records(collection.folder / "index.jsonl", [{"item": "b", "shard": f"../../{outside.name}"}, {"item": "c"}])
    again = Collection(collection.folder)
    assert again.get("b") is None and again.items() == ["a"]


def test_writers_at_once_lose_nothing_and_readers_see_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidtune.features.collection.LOOK_AGAIN_SECONDS", 0.0)
    reader = Collection.create(tmp_path, SPEC)
    words = ["abcd", "efgh", "ijkl", "abkl"]
    threads = [threading.Thread(target=filled, args=(tmp_path, " ".join(word))) for word in words]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(reader.get(item), features_of(item)) for item in "abcdefghijkl")
    assert len(reader) == 12


def test_item_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    collection = filled(tmp_path, "ab")
    collection.write({item: features_of(item) for item in "bc"}, {})
    collection.write({"a": features_of("a")}, {})
    assert sorted(sorted(read_header(path).places) for path in shards(collection)) == [["a", "b"], ["c"]]


def test_tensor_at_an_odd_place_is_read(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    header += b" " * (len(header) % 2 == 0)
    path = tmp_path / "odd.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + np.array([1.5, 2.5], np.float32).tobytes())
    assert MappedShard(path)["a"].tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    "spec",
    [
        {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]},
        {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]},
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        {"dtype": "F32"},
        7,
    ],
)
def test_header_that_lies_is_refused(tmp_path: Path, spec: object) -> None:
    header = json.dumps({"a": spec}).encode()
    path = tmp_path / "bad.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(ValueError, match=r"bytes|header"):
        MappedShard(path)


def test_collection_of_another_version_is_refused(tmp_path: Path) -> None:
    collection = filled(tmp_path, "a")
    (collection.folder / "collection.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="another version"):
        Collection(collection.folder)
    (collection.folder / "collection.json").write_text("{")
    with pytest.raises(UserError, match=r"not valid JSON .*delete the folder to extract its features again"):
        Collection(collection.folder)


def test_key_follows_weights_sizes_preprocessing_rule_and_dtype(tmp_path: Path) -> None:
    def key(
        seed: int = 0, preprocessing: Preprocessing = PREPROCESSING, dtype: str = "float32", change: bool = False
    ) -> str:
        built = tower(seed)
        if change:
            built.encoder.layers[1].mlp.fc2.bias[3] += 1e-6
        return CollectionSpec.of(built, built.config, preprocessing, dtype, {"stream": "any"}).key

    other = CollectionSpec.of(tower(), tower().config, PREPROCESSING, "float32", {"stream": "another"}).key
    assert key() == key() == other
    changed = [
        key(seed=1),
        key(change=True),
        key(dtype="bfloat16"),
        key(preprocessing=PREPROCESSING.model_copy(update={"sampling": "arange"})),
        key(preprocessing=PREPROCESSING.model_copy(update={"antialias": True})),
        key(preprocessing=PREPROCESSING.model_copy(update={"pixels": "uint8"})),
        key(preprocessing=AnyPixelVideoPreprocessing()),
    ]
    assert len({key(), *changed}) == len(changed) + 1


def test_weights_hash_is_of_names_dtypes_shapes_and_bytes() -> None:
    one = {"a": torch.arange(4.0), "b": torch.ones(2, dtype=torch.bfloat16), "c": torch.tensor(3)}
    assert weights_hash(one) == weights_hash(dict(reversed(one.items())))
    others = [
        {**one, "a": torch.arange(4.0).view(2, 2)},
        {**one, "a": torch.arange(4.0).double()},
        {**one, "a": torch.tensor([0.0, 1.0, 2.0, -3.0])},
        {"a": one["a"], "b": one["b"], "d": one["c"]},
    ]
    assert len({weights_hash(tensors) for tensors in [one, *others]}) == 5


def test_file_is_known_by_content_wherever_it_lies(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4")
    name = MediaIdentities().of(str(path))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    path.rename(moved / "b.mp4")
    assert name is not None and MediaIdentities().of(str(moved / "b.mp4")) == name
    assert MediaIdentities().of(str(path)) is None


def test_changed_file_has_another_name_within_a_process(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(10 * BLOCK))
    identities, status = MediaIdentities(), path.stat()
    names = {identities.of(str(path))}
    for place in (0, 5 * BLOCK, 10 * BLOCK - 1):  # same size and, as `cp -p` leaves it, same time
        content = bytearray(10 * BLOCK)
        content[place] = 1
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        names.add(MediaIdentities().of(str(path)))
    path.write_bytes(bytes(10 * BLOCK))
    names.add(identities.of(str(path)))  # the first content, written at another time
    assert len(names) == 5


def test_folder_of_pictures_is_known_by_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_bytes(bytes([number]) * 10)
    name = MediaIdentities().of(str(folder))
    folder.rename(tmp_path / "moved")
    assert MediaIdentities().of(str(tmp_path / "moved")) == name
    (tmp_path / "moved" / "4.png").unlink()
    assert MediaIdentities().of(str(tmp_path / "moved")) != name


def test_cache_serves_what_is_not_written_yet_and_writes_it(tmp_path: Path) -> None:
    clip = MediaRef("video", str(write_clip(tmp_path / "a.mp4")))
    cache = stream_into(tmp_path / "store").cache
    key = cache.key(clip)
    assert key is not None and cache.find(clip) is None
    given = torch.randn(4, 6)
    kept = given.clone()
    cache.add(key, given)
    given.zero_()
    cache.flush()
    assert torch.equal(cache.find(clip), kept)
    again = stream_into(tmp_path / "store").cache
    assert torch.equal(again.find(clip), kept)
    assert cache.find(MediaRef("video", str(tmp_path / "gone.mp4"))) is None


def test_cache_writes_shards_by_size_and_by_age(tmp_path: Path) -> None:
    by_size = FeatureCache(tmp_path, SPEC, shard_bytes=100, shard_seconds=1e9)
    for item in "abcd":
        by_size.add(item, features_of(item))  # 60 bytes
    by_size.flush()
    assert len(shards(by_size.collection)) == 2
    by_age = FeatureCache(tmp_path / "age", SPEC, shard_seconds=3600)
    by_age.add("a", features_of("a"))
    assert by_age.get("b") is None and not shards(by_age.collection)
    by_age._first_came -= 3600  # an hour later
    by_age.get("b")
    by_age._last.result()
    (found,) = shards(by_age.collection)
    assert list(read_header(found).places) == ["a"]


def test_features_of_other_dtypes_are_stored_as_the_collection_wants(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, CollectionSpec("w", {}, {}, "bfloat16"))
    cache.add("a", features_of("a"))
    cache.add("a", features_of("b"))
    cache.flush()
    assert torch.equal(cache.get("a"), features_of("a").bfloat16())


def test_what_the_disk_cannot_take_in_time_is_left_out_or_waited_for(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, SPEC, shard_seconds=1e9, waiting_bytes=130)
    for item in "abc":
        cache.add(item, features_of(item))
    assert cache.left_out == 1
    cache.add("c", features_of("c"), wait=True)
    cache.flush()
    assert sorted(Collection(cache.collection.folder).items()) == ["a", "b", "c"]


def test_full_disk_stops_the_cache_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(tmp_path, SPEC)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vidtune.features.collection.write_shard", full)
    cache.add("a", features_of("a"))
    cache.flush()
    assert cache.problem is not None and "No space left" in cache.problem
    cache.add("b", features_of("b"))
    cache.close()
    cache.close()
    assert cache.get("b") is None


@pytest.mark.parametrize("closing", ["add", "flush", "close"])
def test_a_writer_that_dies_is_no_secret(closing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(tmp_path, SPEC, shard_bytes=1)
    real, broken = Collection.write, ["a"]

    def write(self: Collection, features: dict[str, object], sources: dict[str, str]) -> int:
        if list(features) == broken:
            raise RuntimeError("of its own\nand more")
        return real(self, features, sources)

    monkeypatch.setattr(Collection, "write", write)
    assert cache.add("a", features_of("a"))
    cache._last.result()  # the thread is done with the first shard, and a later one succeeds
    calls = {"add": lambda: cache.add("b", features_of("b")), "flush": cache.flush, "close": cache.close}
    with pytest.raises(UserError, match=r"features cannot be stored: RuntimeError: of its own and more; what is"):
        calls[closing]()
    assert (cache.written, cache._bytes) == (0, 0)


def test_what_is_counted_as_written_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidtune.features.collection.LOOK_AGAIN_SECONDS", 0)
    cache, other = FeatureCache(tmp_path, SPEC), FeatureCache(tmp_path, SPEC)
    assert other.add("a", features_of("a")) and not other.add("a", features_of("a"))
    other.flush()
    assert cache.add("a", features_of("a")) and cache.add("b", features_of("b"))
    cache.flush()
    assert (other.written, cache.written) == (1, 1)


def test_an_item_larger_than_all_that_may_wait_is_stored_if_the_caller_waits(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, SPEC, waiting_bytes=1)
    assert not cache.add("a", features_of("a"))
    assert cache.add("a", features_of("a"), wait=True) and cache.add("b", features_of("b"), wait=True)
    cache.close()
    assert sorted(Collection(cache.collection.folder).items()) == ["a", "b"]


def test_random_preprocessing_has_no_collection() -> None:
    from vidtune.features.tower_stream import reads_alike
    from vidtune.media.preprocessing.kinds import random_setting
    from vidtune.media.preprocessing.regions import RegionPreprocessing

    assert random_setting(VideoPreprocessing(flip_probability=0.5)) == "flip_probability"
    assert random_setting(VideoPreprocessing()) is None
    assert reads_alike(VideoPreprocessing(), VideoPreprocessing())
    assert not reads_alike(RegionPreprocessing(), RegionPreprocessing())  # each item has frames of its own
