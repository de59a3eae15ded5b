import io
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vidtune.errors import MediaError
from vidtune.media.feature_file import feature_shape, is_feature_file, read_features
from vidtune.media.pool import LoadJob, MediaPool
from vidtune.media.preprocessing.resize_to_square import VideoPreprocessing

VALUES = np.arange(12, dtype=np.float32).reshape(4, 3)


def npy(header: str) -> bytes:
    """An .npy file with this header and eight bytes of values."""
    return b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header.encode() + bytes(8)


def packed() -> bytes:
    content = io.BytesIO()
    np.savez(content, a=VALUES)
    return content.getvalue()


def write(path, array):
    tensor = torch.from_numpy(array.copy())
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".pt":
        torch.save(tensor, path)
    elif path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(array))
    else:
        save_file({"features": tensor}, path)
    return str(path)


@pytest.mark.parametrize("suffix", [".npy", ".pt", ".pkl", ".safetensors"])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_every_kind_of_file_gives_its_array(tmp_path, suffix, kind):
    path = write(tmp_path / f"a{suffix}", VALUES.astype(kind))
    assert is_feature_file(path)
    assert feature_shape(path) == (4, 3)
    found = read_features(path)
    assert found.dtype == (np.float16 if kind == np.float16 else np.float32)
    np.testing.assert_array_equal(found, VALUES)


@pytest.mark.parametrize("suffix", [".npy", ".pt", ".pkl", ".safetensors"])
def test_one_dimension_is_one_token(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", VALUES[0])
    assert feature_shape(path) == read_features(path).shape == (1, 3)


def test_bfloat16_becomes_float32(tmp_path):
    save_file({"x": torch.ones(2, 3, dtype=torch.bfloat16)}, tmp_path / "a.safetensors")
    assert read_features(str(tmp_path / "a.safetensors")).dtype == np.float32


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol_are_read(tmp_path, protocol):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(VALUES, protocol))
    np.testing.assert_array_equal(read_features(str(tmp_path / "a.pkl")), VALUES)


@pytest.mark.parametrize("suffix", [".npy", ".pkl"])
@pytest.mark.parametrize("kind", [">f4", "<f8"])
def test_arrays_by_columns_and_with_other_bytes_first_are_read(tmp_path, suffix, kind):
    array, path = np.asfortranarray(VALUES).astype(kind), tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, array)
    else:
        path.write_bytes(pickle.dumps(array))
    np.testing.assert_array_equal(read_features(str(path)), VALUES)


def test_a_pickle_encodes_nothing_but_the_bytes_of_an_array(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"c_codecs\nencode\n(Vabc\nVutf-16\ntR.")
    with pytest.raises(MediaError, match="asks for text in utf-16"):
        read_features(str(tmp_path / "a.pkl"))


class Bomb:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("suffix", [".pkl", ".pt", ".npy"])
def test_a_pickle_that_would_run_something_is_refused_and_nothing_runs(tmp_path, suffix):
    path, target = tmp_path / f"bomb{suffix}", tmp_path / "made"
    if suffix == ".npy":
        np.save(path, np.array([Bomb(target)], dtype=object), allow_pickle=True)
    elif suffix == ".pt":
        torch.save(Bomb(target), path)
    else:
        path.write_bytes(pickle.dumps(Bomb(target)))
    for read in (read_features, feature_shape):
        with pytest.raises(MediaError, match=r"is not a file of features|holds values of type object"):
            read(str(path))
    assert not target.exists()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("list.pkl", pickle.dumps([1.0, 2.0]), "holds list where one array"),
        ("object.pkl", pickle.dumps(np.array([{}], dtype=object)), "holds values of type O"),
        ("cut.npy", b"\x93NUMPY\x01\x00", "is not a file of features"),
        ("cut.safetensors", b"\xff" * 20, "is not a file of features"),
        ("cut.pt", b"PK\x03\x04 nothing", "is not a file of features"),
        ("text.pkl", b"hello", "is not a file of features"),
        ("empty.npy", b"", "file is empty"),
        ("packed.npy", packed(), "is not a file of features"),
        ("false.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 3), }"), "12,000,000,000"),
        ("less.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1), }"), "8 bytes where shape"),
        ("negative.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -2), }"), "8 bytes where shape"),
        ("object.npy", npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"), "values of type object"),
        ("long.npy", npy("{'descr': '<f4'" + " " * 20_000), "is not a file of features"),
        ("memo.pkl", b"\x80\x02]r\xff\xff\xff\x7f.", "remembers something"),
        ("less.pkl", pickle.dumps(VALUES).replace(b"K\x04K\x03", b"K\x04K\x09"), "bytes where shape"),
    ],
)
def test_what_is_no_array_is_refused(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(MediaError, match=reason):
        read_features(str(path))


def test_wrong_dimensions_and_too_many_tensors_are_refused(tmp_path):
    cube = write(tmp_path / "cube.npy", np.zeros((2, 1, 1, 3, 4), np.float32))
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, tmp_path / "two.safetensors")
    for read in (read_features, feature_shape):
        with pytest.raises(MediaError, match=r"has shape \(2, 1, 1, 3, 4\)"):
            read(cube)
        with pytest.raises(MediaError, match="holds 2 tensors"):
            read(str(tmp_path / "two.safetensors"))
    with pytest.raises(MediaError, match="does not exist"):
        read_features(str(tmp_path / "none.npy"))


def test_the_pool_reads_features_as_they_are(tmp_path):
    path = write(tmp_path / "a.npy", VALUES.astype(np.float16))
    with MediaPool(1, 30.0) as pool:
        [result] = pool.load([LoadJob(path, VideoPreprocessing())])
    np.testing.assert_array_equal(result.array, VALUES)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300, 1j, 1, True, np.int8(3), np.uint8(3)])
def test_values_that_are_no_finite_floats_are_refused(tmp_path, value):
    np.save(tmp_path / "a.npy", np.full((2, 3), value))
    with pytest.raises(MediaError, match=r"not finite|where floats are expected"):
        read_features(str(tmp_path / "a.npy"))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.bool])
def test_tensors_of_other_types_are_refused(tmp_path, dtype):
    torch.save(torch.ones(2, 3).to(dtype), tmp_path / "a.pt")
    with pytest.raises(MediaError, match=r"where floats are expected|is not a file of features"):
        read_features(str(tmp_path / "a.pt"))


@pytest.mark.parametrize("kind", ["sparse", "quantised", "meta"])
def test_tensors_that_are_not_plain_are_refused(tmp_path, kind):
    tensor = torch.ones(2, 3)
    made = {
        "sparse": tensor.to_sparse,
        "quantised": lambda: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        "meta": lambda: tensor.to("meta"),
    }[kind]()
    torch.save(made, tmp_path / "a.pt")
    with pytest.raises(MediaError) as error:
        read_features(str(tmp_path / "a.pt"))
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy\nndarray\n((I20000\nI5000\ntcnumpy\ndtype\n(S'f4'\ntRtR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I20\nI16\ntS'f4'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'V2000000000'\ntRtR.",
    ],
)
def test_a_pickle_gives_no_array_whose_values_it_does_not_hold(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(MediaError, match=r"is not a file of features|is no file of features|where floats are expected"):
        read_features(str(tmp_path / "a.pkl"))


def test_a_tensor_is_not_larger_than_what_its_file_holds(tmp_path):
    torch.save(torch.ones(1, 1).expand(2**20, 2**20), tmp_path / "a.pt")
    with pytest.raises(MediaError, match="repeats its values"):
        read_features(str(tmp_path / "a.pt"))
