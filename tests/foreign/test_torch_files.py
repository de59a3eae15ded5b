"""Files of torch and pickles of others: read as torch reads them, and nothing in them is called, believed or run."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from vidtune.foreign.pickles import PickleError, Sealed, read_pickle
from vidtune.foreign.torch_files import StoredTensor, StrangeTensor, TorchFile

NUMBERS = torch.arange(12.0)
VALUES = {
    "plain": NUMBERS.view(3, 4),
    "turned": NUMBERS.view(3, 4).T,
    "part": NUMBERS[3:7],
    "none": torch.ones(0, 4),
    "alone": torch.tensor(7),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    **{str(kind): torch.ones(3).to(kind) for kind in (torch.float16, torch.bfloat16, torch.bool, torch.int8)},
    "eight": torch.ones(3).to(torch.float8_e4m3fn),
}


def opened(content: bytes) -> TorchFile:
    return TorchFile(io.BytesIO(content))


def saved(value: object, **options: bool) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def with_records(content: bytes, compression: int = zipfile.ZIP_STORED, **records: bytes) -> bytes:
    """A saved file some of whose records are replaced."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, records.get(Path(name).name.replace(".", "_"), old.read(name)))
    return target.getvalue()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("on_disk", [True, False])
def test_values_are_those_that_torch_reads(zipped: bool, on_disk: bool, tmp_path: Path) -> None:
    ordered = OrderedDict(VALUES)
    ordered._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    content = saved({"state": ordered, "more": [1, 2.5, None, ("a", True)]}, _use_new_zipfile_serialization=zipped)
    (tmp_path / "a.pt").write_bytes(content)
    with (tmp_path / "a.pt").open("rb") as whole:
        file = TorchFile(whole if on_disk else io.BytesIO(content))
    assert file.content["more"] == [1, 2.5, None, ("a", True)]
    state = {name: file.read(stored) for name, stored in file.content["state"].items()}
    assert state["plain"].data_ptr() + 12 == state["part"].data_ptr(), "they share their numbers"
    for name, tensor in VALUES.items():
        assert state[name].dtype == tensor.dtype and state[name].shape == tensor.shape
        assert torch.equal(state[name].float(), tensor.float()), name


def test_a_tensor_that_does_not_lie_in_its_record_is_refused() -> None:
    content = saved(torch.arange(8.0))
    short = opened(with_records(content, **{"0": b"\0" * 8}))
    with pytest.raises(ValueError, match="record 0 has 8 bytes, not 8 numbers"):
        short.read(short.content)
    for claim in ({"shape": (9,)}, {"offset": 1}, {"strides": (2,)}):
        file = opened(content)
        with pytest.raises(ValueError, match="does not lie in its 8 numbers"):
            file.read(StoredTensor(**{**vars(file.content), **claim}))
    repeated = opened(saved(torch.ones(1, 1).expand(2**20, 2**20)))
    with pytest.raises(ValueError, match="repeats its values"):
        repeated.read(repeated.content)


def test_records_that_are_compressed_are_not_unpacked() -> None:
    with pytest.raises(KeyError):  # a file of 3 MB could become 3 GB
        opened(with_records(saved(torch.zeros(2**16)), zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(2, 3).to_sparse(),
        lambda: torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8),
        lambda: torch.ones(2, 3).to("meta"),
    ],
    ids=["sparse", "quantised", "meta"],
)
def test_tensors_whose_numbers_are_not_there_are_told_apart(make) -> None:
    assert isinstance(opened(saved(make())).content, StrangeTensor)


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "call",
    [Call(bytearray, 3 * 10**9), Call(torch.Tensor, 50000, 50000), Call(torch.FloatStorage, 10**9), Call(exec, "1/0")],
    ids=["bytearray", "tensor", "storage", "code"],
)
def test_what_a_file_calls_is_not_called(call: Call, zipped: bool) -> None:
    evil = pickle.dumps({"a": call}, 2)
    if zipped:
        content = with_records(saved({}), data_pkl=evil)
    else:
        content = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {})) + evil
    with pytest.raises((PickleError, TypeError)):
        opened(content)


def test_a_row_whose_storage_is_longer_than_the_file_is_refused() -> None:
    content = saved(torch.arange(8.0), _use_new_zipfile_serialization=False)
    at = content.rfind(struct.pack("<q", 8))
    with pytest.raises(ValueError, match="does not lie in the file"):
        opened(content[:at] + struct.pack("<q", 2**40) + content[at + 8 :])


@pytest.mark.parametrize("cut", [0, 1, 10, 100, 300])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_cut_file_is_an_error(cut: int, zipped: bool) -> None:
    content = saved({"a": torch.ones(40)}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(Exception, match=""):
        opened(content[:cut])


class Empty(metaclass=Sealed):
    """What a pickle may name; a class without the metaclass would get any attribute."""


def no_name(module: str, name: str) -> object:
    return Empty if name == "Empty" else pytest.fail(f"asked for {module}.{name}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02]r\xff\xff\xff\x7f.", "remembers something as number 2147483647"),  # 32 GB of places
        (b"]p99999999\n.", "remembers something as number 99999999"),
        (b"ca\nEmpty\nN}Vx\nK\x01s\x86b.", "sets x of a class"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0fabc.", ""),  # bytes of an impossible length
        (b"N\x85Q.", "refers to something outside"),
    ],
    ids=["memo", "old memo", "class", "length", "reference"],
)
def test_a_pickle_gets_no_memory_and_no_class(content: bytes, message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        read_pickle(io.BytesIO(content), no_name)
    assert not isinstance(caught.value, MemoryError)


def test_pickles_in_a_row_are_read_one_by_one() -> None:
    file = io.BytesIO(pickle.dumps([1]) + pickle.dumps("b") + b"rest")
    assert [read_pickle(file, no_name), read_pickle(file, no_name), file.read()] == [[1], "b", b"rest"]
    with pytest.raises(PickleError, match="more than 10"):
        read_pickle(io.BytesIO(pickle.dumps("a" * 20)), no_name, limit=10)


def test_a_pickle_in_a_file_asks_for_no_more_bytes_than_there_are(tmp_path: Path) -> None:
    """A file gives memory for what is asked for before it looks at what there is."""
    (tmp_path / "long.pkl").write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc.")
    with (tmp_path / "long.pkl").open("rb") as file, pytest.raises(ValueError, match="only 4 remain"):
        read_pickle(file, no_name)
