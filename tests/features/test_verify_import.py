"""Verification finds every changed byte; import reads arrays and nothing else."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from feature_world import stream_into, write_clip
from safetensors import safe_open
from safetensors.torch import save_file

from vidtune.cli.main import run
from vidtune.errors import UserError
from vidtune.features.collection import append_records, collections
from vidtune.features.extract import extract
from vidtune.features.imported import import_folder
from vidtune.features.media_listing import refs_of_folder
from vidtune.features.verify import summaries, verify
from vidtune.media.feature_file import feature_shape, is_feature_file, read_features
from vidtune.media.pool import MediaPool


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of three clips in two shards or three."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(3):
        write_clip(videos / f"{number}.mp4", seed=number)
    stream = stream_into(tmp_path / "store", shard_bytes=1000, shard_seconds=1e9)
    with MediaPool(0, None) as pool:
        extract(refs_of_folder(videos, [stream]), {"video": stream}, pool, batch_size=1)
    return tmp_path / "store"


def shards(store: Path) -> list[Path]:
    (folder,) = collections(store)
    return sorted((folder / "shards").iterdir())


def test_store_as_it_was_written_is_intact(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = verify(store)
    assert (found.items, found.twice, found.problems) == (3, 0, [])
    (summary,) = summaries(store)
    assert (summary.items, summary.shards, summary.dtype, summary.title) == (3, 3, "float32", "tiny video")
    assert summary.bytes == sum(path.stat().st_size for path in shards(store))
    assert run(["features", "list", "--store", str(store)]) == 0
    assert run(["features", "verify", "--store", str(store)]) == 0
    assert "3 items intact, 0 problems" in capsys.readouterr().out


def test_every_flipped_byte_is_found(store: Path) -> None:
    path = shards(store)[1]
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    places = [*range(begin), begin, begin + 100, len(content) - 1]
    for place in places[:: 1 + len(places) // 60] + places[-3:]:
        flipped = bytearray(content)
        flipped[place] ^= 0x20
        path.write_bytes(flipped)
        (found,) = verify(store)
        assert len(found.problems) >= 1, f"byte {place} of {len(content)}"
        assert str(path) in found.problems[0]
        assert found.items == 2
    path.write_bytes(content)
    assert not next(verify(store)).problems


def test_missing_and_cut_shards_are_found(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, _ = shards(store)
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    (found,) = verify(store)
    assert found.items == 1
    assert any(str(first) in problem and "gone, with 1 items" in problem for problem in found.problems)
    assert any(str(second) in problem and "bytes are there" in problem for problem in found.problems)
    assert run(["features", "verify", "--store", str(store)]) == 2
    assert "2 problems, listed above" in capsys.readouterr().err


def test_folder_without_collections_is_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("list", "verify"):
        assert run(["features", command, "--store", str(tmp_path)]) == 2
        assert "no feature store" in capsys.readouterr().err


class Evil:
    """Unpickled naively, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.mark,))


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Features as they are handed out: every format, and every mistake."""
    folder = tmp_path / "visual_features"
    (folder / "more").mkdir(parents=True)
    draw = np.random.default_rng(0)
    np.save(folder / "a.npy", draw.standard_normal((5, 8)).astype(np.float16))
    torch.save(torch.randn(3, 8), folder / "b.pt")
    (folder / "more" / "c.pkl").write_bytes(pickle.dumps(draw.standard_normal((2, 8)).astype(np.float32)))
    np.save(folder / "d.npy", draw.standard_normal(8).astype(np.float32))
    np.save(folder / "wide.npy", np.zeros((5, 9), np.float16))
    np.save(folder / "cube.npy", np.zeros((5, 2, 2), np.float16))
    np.save(folder / "objects.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    (folder / "list.pkl").write_bytes(pickle.dumps([1, 2]))
    (folder / "evil.pkl").write_bytes(pickle.dumps(Evil(tmp_path / "executed")))
    torch.save(Evil(tmp_path / "executed"), folder / "evil2.pt")
    (folder / "empty.npy").touch()
    (folder / "notes.txt").write_text("passed over")
    np.save(folder / "b.npy", np.zeros((3, 8), np.float32))  # beside b.pt
    return folder


REFUSED = {"wide.npy", "cube.npy", "objects.npy", "list.pkl", "evil.pkl", "evil2.pt", "empty.npy", "b.pt"}


def test_import_takes_arrays_and_lists_the_rest(published: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    report = import_folder(published, store, "visual")
    assert (report.imported, report.found, report.width) == (4, 0, 8)
    assert {Path(path).name for path, _ in report.failed} == REFUSED
    reasons = {Path(path).name: reason for path, reason in report.failed}
    assert reasons["wide.npy"] == "has width 9, not 8"
    assert "same item" in reasons["b.pt"]
    assert not (tmp_path / "executed").exists()
    for name in ("a", "b", "more/c", "d"):
        path = str(store / "visual" / f"{name}.safetensors")
        original = next(p for p in published.rglob("*") if p.with_suffix("") == published / name and p.name != "b.pt")
        assert is_feature_file(path)
        assert np.array_equal(read_features(path), read_features(str(original)))
        assert read_features(path).dtype == read_features(str(original)).dtype
        assert feature_shape(path) == read_features(path).shape
        with safe_open(path, "np") as file:
            assert list(file.keys()) == ["features"]


def test_import_goes_on_and_takes_no_other_folder_of_the_same_name(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    command = ["features", "import", str(published), "--store", str(store), "--name", "visual"]
    assert run(command) == 2
    said = capsys.readouterr()
    assert "4 imported, 0 found, 8 refused; width 8" in said.out and "8 of 12 files were refused" in said.err
    (store / "visual" / "a.safetensors").unlink()
    np.save(published / "late.npy", np.ones((1, 8), np.float32))
    assert run(command) == 2
    assert "2 imported, 3 found, 8 refused; width 8" in capsys.readouterr().out
    other = tmp_path / "other"
    other.mkdir()
    np.save(other / "a.npy", np.ones((1, 4), np.float32))
    assert run(["features", "import", str(other), "--store", str(store), "--name", "visual"]) == 2
    assert "holds another collection" in capsys.readouterr().err
    for name in ("../x", ".x", ""):
        assert run(["features", "import", str(other), "--store", str(store), "--name", name]) == 2
    assert run(["features", "import", str(tmp_path / "videos"), "--store", str(store), "--name", "y"]) == 2
    assert sorted(path.name for path in store.iterdir()) == ["visual"]


def test_imported_items_are_verified(published: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    import_folder(published, store, "visual")
    (found,) = verify(store)
    assert (found.items, found.problems) == (4, [])
    path = store / "visual" / "more" / "c.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    (store / "visual" / "d.safetensors").unlink()
    (found,) = verify(store)
    assert found.items == 2
    assert any(str(path) in problem and "changed" in problem for problem in found.problems)
    assert any("d.safetensors" in problem and "does not exist" in problem for problem in found.problems)
    (summary,) = summaries(store)
    assert summary.title == f"imported from {published}" and summary.shards == 3


@pytest.mark.parametrize("item", ["../../outside", "/dev/zero", "link/outside"])
def test_the_index_of_an_imported_collection_names_no_file_outside_of_it(
    item: str, published: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    import_folder(published, store, "visual")
    outside = tmp_path / "outside.safetensors"
    save_file({"features": torch.ones(2, 3)}, outside)
    (store / "visual/link").symlink_to(tmp_path)
    append_records(store / "visual/index.jsonl", [{"item": item, "shape": [2, 3], "crc32": 0}])
    (found,) = verify(store)
    assert (found.items, found.problems) == (4, [])


def test_width_that_is_given_counts(published: Path, tmp_path: Path) -> None:
    report = import_folder(published, tmp_path / "store", "nine", width=9)
    assert report.imported == 1
    assert {Path(path).name for path, _ in report.failed} > {"a.npy", "d.npy"}


def shapes(folder: Path, **rows_and_width: tuple[int, int]) -> Path:
    """A folder of feature files of these shapes."""
    folder.mkdir(exist_ok=True)
    for name, shape in rows_and_width.items():
        np.save(folder / f"{name}.npy", np.ones(shape, np.float16))
    return folder


def imported(store: Path) -> dict[str, tuple[int, ...]]:
    """Item -> shape of its file."""
    return {path.stem: read_features(str(path)).shape for path in (store / "mine").glob("*.safetensors")}


def test_the_width_of_most_files_decides_not_that_of_the_first(tmp_path: Path) -> None:
    folder, store = shapes(tmp_path / "in", a=(2, 32), b=(2, 64), c=(3, 64), d=(2, 64)), tmp_path / "store"
    report = import_folder(folder, store, "mine")
    assert (report.width, report.imported) == (64, 3)
    assert [(Path(path).name, reason) for path, reason in report.failed] == [("a.npy", "has width 32, not 64")]
    assert imported(store) == {"b": (2, 64), "c": (3, 64), "d": (2, 64)}
    shapes(folder, a=(4, 64))
    report = import_folder(folder, store, "mine")
    assert (report.imported, report.found, report.failed) == (1, 3, [])


def test_no_width_of_most_files_asks_for_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, store = shapes(tmp_path / "in", a=(2, 32), b=(2, 64)), tmp_path / "store"
    command = ["features", "import", str(folder), "--store", str(store), "--name", "mine"]
    assert run(command) == 2
    assert "1 of 32 (such as a.npy), 1 of 64 (such as b.npy); choose one with --width" in capsys.readouterr().err
    assert imported(store) == {}
    assert run([*command, "--width", "64"]) == 2
    assert "1 of 2 files were refused" in capsys.readouterr().err
    assert imported(store) == {"b": (2, 64)}


@pytest.mark.parametrize(
    ("width", "said"),
    [
        (32, "holds 3 items of width 64, but width 32 is given with --width; choose another --name"),
        (None, "holds 3 items of width 64, but width 32 is that of most files of .*in; choose another --name"),
        (64, None),
    ],
)
def test_items_of_another_width_than_the_collection_delete_nothing(
    width: int | None, said: str | None, tmp_path: Path
) -> None:
    folder, store = shapes(tmp_path / "in", a=(2, 64), b=(2, 64), gone=(2, 64)), tmp_path / "store"
    import_folder(folder, store, "mine")
    (folder / "gone.npy").unlink()
    shapes(folder, c=(2, 32), d=(2, 32), e=(2, 32))
    if said is not None:
        with pytest.raises(UserError, match=said):
            import_folder(folder, store, "mine", width=width)
    else:
        report = import_folder(folder, store, "mine", width=width)
        assert (report.imported, report.found, len(report.failed)) == (0, 2, 3)
    assert imported(store).keys() == {"a", "b", "gone"}
    (found,) = verify(store)
    assert (found.items, found.problems) == (3, [])


def test_a_collection_of_which_every_file_changed_may_get_another_width(tmp_path: Path) -> None:
    folder, store = shapes(tmp_path / "in", a=(2, 64), b=(2, 64)), tmp_path / "store"
    import_folder(folder, store, "mine")
    report = import_folder(shapes(folder, a=(2, 32), b=(2, 32)), store, "mine")
    assert (report.width, report.imported) == (32, 2) and imported(store) == {"a": (2, 32), "b": (2, 32)}


def test_a_replaced_or_spoiled_file_is_imported_anew(tmp_path: Path) -> None:
    folder, store = shapes(tmp_path / "in", a=(2, 8), b=(2, 8), c=(2, 8)), tmp_path / "store"
    import_folder(folder, store, "mine")
    shapes(folder, a=(5, 8))
    (folder / "b.npy").write_text("no array")
    report = import_folder(folder, store, "mine")
    assert (report.imported, report.found, len(report.failed)) == (1, 1, 1)
    assert imported(store) == {"a": (5, 8), "c": (2, 8)}
    (found,) = verify(store)
    assert (found.items, found.problems) == (2, [])


def test_a_link_out_of_the_folder_is_not_imported(tmp_path: Path) -> None:
    folder, outside = tmp_path / "features", tmp_path / "outside.npy"
    folder.mkdir()
    for path in (folder / "a.npy", outside):
        np.save(path, np.ones((3, 4), np.float32))
    (folder / "b.npy").symlink_to(outside)
    report = import_folder(folder, tmp_path / "store", "mine")
    assert report.failed == [(str(folder / "b.npy"), "leads out of its folder through a symbolic link; copy the file")]
    assert [path.name for path in (tmp_path / "store/mine").glob("*.safetensors")] == ["a.safetensors"]
