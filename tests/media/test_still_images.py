"""Still images of every kind become the right 8-bit RGB picture, or are refused in one line; none turns white."""

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidtune.errors import MediaError
from vidtune.media.image import frame_images, frame_path, image_size, list_frames, read_image
from vidtune.media.kept.identity import MediaIdentities, content_hash
from vidtune.media.preprocessing.regions import RegionPreprocessing
from vidtune.media.probe import probe

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
SIXTEEN = RAMP.astype(np.uint16) * 256 + 77
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=-1)


def grey(picture: np.ndarray) -> np.ndarray:
    return np.repeat(picture[..., None], 3, axis=2)


def raw_tiff(path: Path, levels: np.ndarray, bits: int, photometric: int) -> None:
    """A grey TIFF of one strip; ``levels``: bytes as they stand in the file."""
    width = height = 16
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 122), (277, 1), (278, height)]
    tags.append((279, levels.nbytes))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes(head.ljust(122, b"\0") + levels.tobytes())


def saved(picture: np.ndarray, mode: str | None = None, **options: object) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        image = Image.fromarray(picture)
        (image if mode is None else image.convert(mode)).save(path, **options)

    return save


def written(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def twelve_bits(path: Path) -> None:
    pairs = (RAMP.astype(np.uint32) * 16 + 5).reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1)
    raw_tiff(path, packed.astype(np.uint8), 12, 1)


def palette_with_alpha(path: Path) -> None:
    image = Image.fromarray(RAMP % 2, "P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(path, transparency=bytes([0, 128]))


def rgb16_png(path: Path) -> None:
    rows = (COLOURS.astype(">u2") * 256 + 99).astype(">u2")
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)), (b"IDAT", body), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in parts)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def turned_by_exif(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOURS).save(path, exif=exif)


def cmyk(path: Path) -> None:
    Image.fromarray(255 - np.dstack([COLOURS, np.full_like(RAMP, 255)]), "CMYK").save(path)


PICTURES: dict[str, tuple[Callable[[Path], None], np.ndarray]] = {
    "grey16.png": (saved(SIXTEEN), grey(RAMP)),
    "grey16.tif": (saved(SIXTEEN), grey(RAMP)),
    "big_endian16.pgm": (written(b"P5 16 16 65535\n" + SIXTEEN.astype(">u2").tobytes()), grey(RAMP)),
    "white_is_zero16.tif": (lambda path: raw_tiff(path, SIXTEEN.astype("<u2"), 16, 0), grey(255 - RAMP)),
    "grey12.tif": (twelve_bits, grey(RAMP)),
    "grey16.jp2": (saved(SIXTEEN), grey(RAMP)),
    "rgb16.png": (rgb16_png, COLOURS),
    "grey8.png": (saved(RAMP), grey(RAMP)),
    "bits1.png": (saved(RAMP, "1", bits=1), grey(np.array(Image.fromarray(RAMP).convert("1")).astype(np.uint8) * 255)),
    "grey_with_alpha.png": (saved(RAMP, "LA"), grey(RAMP)),
    "alpha.png": (saved(np.dstack([COLOURS, RAMP])), COLOURS),
    "palette_with_alpha.png": (palette_with_alpha, np.array([[10, 20, 30], [200, 100, 50]], np.uint8)[RAMP % 2]),
    "cmyk.tif": (cmyk, COLOURS),
    "exif.png": (turned_by_exif, COLOURS),  # as published loaders read it: not turned
}


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_is_the_right_one(name: str, tmp_path: Path) -> None:
    write, expected = PICTURES[name]
    write(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read_image(str(tmp_path / name)), expected)


@pytest.mark.parametrize(
    ("levels", "named"),
    [
        (SIXTEEN.astype(np.float32), "float"),
        (RAMP.astype(np.float32) / 255, "float"),
        (SIXTEEN.astype(np.int32), "32-bit"),
    ],
)
def test_levels_without_a_known_scale_are_refused(levels: np.ndarray, named: str, tmp_path: Path) -> None:
    Image.fromarray(levels).save(tmp_path / "levels.tif")
    with pytest.raises(MediaError, match=rf"levels\.tif: has {named} grey levels, whose .* save it with 8 or 16 bits$"):
        read_image(str(tmp_path / "levels.tif"))


def test_an_error_of_any_type_in_a_damaged_picture_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise struct.error("unpack requires\na buffer")

    Image.fromarray(RAMP).save(tmp_path / "picture.png")
    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(MediaError, match=r"picture\.png: is a damaged image \(unpack requires\)$"):
        read_image(str(tmp_path / "picture.png"))


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PCX"])
def test_a_name_does_not_decide_which_reader_gets_a_file(kind: str, tmp_path: Path) -> None:
    """Postscript would start a program."""
    Image.fromarray(RAMP).convert("L").save(tmp_path / "photo.jpg", kind)
    with pytest.raises(MediaError, match=r"photo\.jpg: is not an image file of a known format"):
        read_image(str(tmp_path / "photo.jpg"))
    with pytest.raises(MediaError, match=r"photo\.jpg: "):
        probe(tmp_path / "photo.jpg")


def test_a_damaged_header_is_the_fault_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RAMP).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:8] + struct.pack(">I", 5) + whole[12:21] + whole[25:])  # a header of 5 bytes
    for read in (read_image, image_size, probe):
        with pytest.raises(MediaError, match=r"a\.png: is a damaged image \(Truncated IHDR chunk\)"):
            read(str(path))


def test_a_frame_is_inside_its_folder_when_it_is_opened(tmp_path: Path) -> None:
    folder, outside = tmp_path / "frames", tmp_path / "secret.png"
    folder.mkdir()
    for path in (folder / "a.png", outside):
        Image.new("RGB", (8, 6)).save(path)
    paths = list_frames(str(folder))
    (folder / "a.png").unlink()
    (folder / "a.png").symlink_to(outside)  # after it was listed
    with pytest.raises(MediaError, match=r"a\.png: leads out of"):
        list(frame_images(paths, [0]))
    with pytest.raises(MediaError, match=r"secret\.png: leads out of its folder"):
        frame_path(str(folder), "../secret.png")


def test_no_frame_of_a_folder_lies_outside_it(tmp_path):
    folder, outside = tmp_path / "frames", tmp_path / "secret.png"
    folder.mkdir()
    for path in (folder / "a.png", outside):
        Image.new("RGB", (8, 6)).save(path)
    (folder / "b.png").symlink_to("a.png")
    assert list_frames(str(folder)) == [str(folder / "a.png"), str(folder / "b.png")]
    assert MediaIdentities().of(str(folder)) is not None and content_hash(str(folder)) is not None
    (folder / "c.png").symlink_to(outside)
    assert MediaIdentities().of(str(folder)) is None and content_hash(str(folder)) is None  # not even for its identity
    boxes = {"boxes": np.array([[1.0, 1, 5, 5]])}
    steps = RegionPreprocessing(size=4, num_boxes=1)
    steps.load_item(str(folder), boxes, frames=["b.png"])
    for read in (list_frames, lambda path: steps.load_item(path, boxes, frames=["c.png"])):
        with pytest.raises(MediaError, match=r"c\.png: leads out of its folder"):
            read(str(folder))
