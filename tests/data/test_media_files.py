"""Which files stand for a record's media: the file itself, found by path or id, and stored features of it."""

from pathlib import Path

import pytest

from vidtune.data.annotation import Annotation
from vidtune.data.media_files import MediaFiles
from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef, Turn


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("media/AbC.mkv", "media/sub/b.mp4", "clip/AbC.npy", "clip/seven.pt", "clip/sub/b.npy", "ears/AbC.pkl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path.resolve()


def record(identity: str, *media: tuple[str, str | None]) -> Annotation:
    return Annotation(identity, (Turn("user", "?"),), media)


def refs(files: MediaFiles, *arguments: object) -> tuple[MediaRef, ...]:
    return files.refs(record(*arguments))  # type: ignore[arg-type]


def problem(files: MediaFiles, *arguments: object) -> SampleProblem:
    with pytest.raises(SampleProblem) as caught:
        refs(files, *arguments)
    return caught.value


def test_a_medium_named_by_id_is_found_with_the_extension_it_has(place: Path) -> None:
    assert refs(MediaFiles(place / "media", {}), "AbC", ("video", None)) == (
        MediaRef("video", str(place / "media/AbC.mkv")),
    )
    missing = problem(MediaFiles(place / "media", {}), "XyZ", ("video", None))
    assert missing.reason == "missing file" and "'XyZ'" in missing.detail and str(place / "media") in missing.detail
    assert problem(MediaFiles(None, {}), "AbC", ("video", None)).reason == "no media folder"


def test_pictures_have_other_extensions_than_videos(place: Path) -> None:
    files = MediaFiles(place / "media", {})
    assert problem(files, "AbC", ("image", None)).reason == "missing file"
    (place / "media/AbC.png").touch()
    assert refs(MediaFiles(place / "media", {}), "AbC", ("image", None))[0].path == str(place / "media/AbC.png")


def test_features_of_all_streams_are_found_by_id_then_by_path(place: Path) -> None:
    files = MediaFiles(None, {"video": place / "clip", "audio": place / "ears"})
    clip = str(place / "clip")
    both = (("video", f"{clip}/AbC.npy"), ("audio", str(place / "ears/AbC.pkl")))
    assert refs(files, "AbC", ("video", None)) == (MediaRef("video", "", both),)
    assert refs(files, "AbC", ("video", "sub/b.mp4")) == (MediaRef("video", "", both),)
    assert refs(files, "", ("video", "sub/b.mp4")) == (MediaRef("video", "", (("video", f"{clip}/sub/b.npy"),)),)
    (place / "clip/v.1.npy").touch()
    assert refs(MediaFiles(None, {"video": place / "clip"}), "", ("video", "v.1"))[0].features == (
        ("video", f"{clip}/v.1.npy"),
    )
    assert refs(files, "seven", ("video", None)) == (MediaRef("video", "", (("video", f"{clip}/seven.pt"),)),)


def test_an_id_stands_for_one_medium_only(place: Path) -> None:
    files = MediaFiles(None, {"video": place / "clip"})
    missing = problem(files, "AbC", ("video", "sub/b.mp4"), ("video", "x.mp4"))
    assert missing.reason == "features missing" and "'x.mp4'" in missing.detail


def test_missing_features_are_named_with_their_folder(place: Path) -> None:
    missing = problem(MediaFiles(None, {"video": place / "clip", "audio": place / "ears"}), "XyZ", ("video", None))
    assert missing.reason == "features missing"
    assert "'XyZ'" in missing.detail and str(place / "clip") in missing.detail


def test_the_file_is_read_where_its_features_are_missing(place: Path) -> None:
    files = MediaFiles(place / "media", {"video": place / "ears", "audio": place / "ears"})
    (place / "media/raw.mp4").touch()
    raw = str(place / "media/raw.mp4")
    files = MediaFiles(place / "media", {"video": place / "clip", "audio": place / "ears"})
    assert refs(files, "raw", ("video", None)) == (MediaRef("video", raw),)
    assert refs(files, "", ("video", "raw.mp4")) == (MediaRef("video", raw),)
    gone = problem(files, "gone", ("video", "gone.mp4"))
    assert gone.reason == "features missing" and "no video 'gone.mp4' in the media folder" in gone.detail


def test_the_file_stands_beside_its_features_for_streams_without_any(place: Path) -> None:
    files = MediaFiles(place / "media", {"video": place / "clip"})
    assert refs(files, "AbC", ("video", None)) == (
        MediaRef("video", str(place / "media/AbC.mkv"), (("video", str(place / "clip/AbC.npy")),)),
    )


def test_features_of_other_streams_do_not_stand_for_the_medium(place: Path) -> None:
    files = MediaFiles(place / "media", {"audio": place / "ears"})
    assert refs(files, "AbC", ("video", "AbC.mkv"))[0].features == (("audio", str(place / "ears/AbC.pkl")),)
    assert problem(files, "AbC", ("video", "gone.mp4")).reason == "missing file"
    assert problem(MediaFiles(None, {"audio": place / "ears"}), "AbC", ("video", "a.mp4")).reason == "no media folder"


@pytest.mark.parametrize("identity", ["../clip/AbC", "/etc/passwd", "sub/../AbC"])
def test_an_id_cannot_leave_its_folder(place: Path, identity: str) -> None:
    files = MediaFiles(place / "media", {"video": place / "clip"})
    assert problem(files, identity, ("video", None)).reason == "unsafe path"
    # Where the path names the medium, such an id is a name like any other.
    assert refs(files, identity, ("video", "sub/b.mp4"))[0].features == (("video", str(place / "clip/sub/b.npy")),)


def test_a_path_is_not_looked_for_when_there_are_no_features(place: Path) -> None:
    assert refs(MediaFiles(place / "media", {}), "", ("video", "gone.mp4")) == (
        MediaRef("video", str(place / "media/gone.mp4")),
    )


def test_the_fingerprint_follows_what_is_looked_at(place: Path) -> None:
    def fingerprint(features: bool, by_id: bool) -> str:
        return MediaFiles(place / "media", {"video": place / "clip"} if features else {}).fingerprint(by_id)

    assert fingerprint(features=False, by_id=False) == ""
    before = [fingerprint(features=True, by_id=False), fingerprint(features=False, by_id=True)]
    (place / "clip/new.npy").touch()
    assert fingerprint(features=True, by_id=False) != before[0]
    assert fingerprint(features=False, by_id=True) == before[1]
    (place / "media/new.mp4").touch()
    assert fingerprint(features=False, by_id=True) != before[1]
