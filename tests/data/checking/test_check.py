import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import av
import numpy as np
import pytest
from PIL import Image

from vidtune.data.checking.check import DataCheck
from vidtune.data.checking.findings import DataReport
from vidtune.data.checking.media_check import KINDS
from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef, Sample
from vidtune.data.tables import AnnotationTable
from vidtune.media.file_version import GONE, version_of
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.media.preprocessing.regions import RegionPreprocessing
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing, VideoPreprocessing

COMPANIONS: tuple[str, ...] = ()
PREPROCESSING = {"image": ImagePreprocessing(size=16), "video": VideoPreprocessing(size=16, num_frames=2)}


@dataclass
class Source:
    annotations: Path
    media: Path
    features: dict[str, Path] = field(default_factory=dict)
    format: str | None = None
    sampling: str | None = None
    frame_rate: float | None = None
    roots: dict[str, str] = field(default_factory=dict)
    missing_sets: str | None = None


@dataclass
class Medium:
    ref: MediaRef


@dataclass
class Checked:
    media: list[Medium]
    masked: str | None = None
    truncated: bool = False


def encode(sample: Sample) -> Checked:
    """Stands in for the processor, whose own behaviour is tested elsewhere."""
    text = "".join(turn.text for turn in sample.turns)
    if text.count("<") != len(sample.media):
        raise SampleProblem("tags and media differ in number", "too many tags", sample.id)
    readers = [(item, stream) for item in sample.media for stream in (item.stream, *COMPANIONS)]
    media = [Medium(ref) for item, stream in readers if (ref := item.read_by(stream))]
    return Checked(media, "empty answer" if not sample.turns[-1].text else None, len(text) > 50)


def write_video(path: Path) -> None:
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for value in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), value * 50, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    write_video(folder / "good.mp4")
    Image.new("RGB", (20, 20)).save(folder / "good.png")
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("not a video")
    os.mkfifo(folder / "pipe.mp4")
    # The header and the packet table of a file whose picture data are gone are still whole.
    content = bytearray((folder / "good.mp4").read_bytes())
    start = content.index(b"mdat") + 4
    content[start : start + 200] = bytes(200)
    (folder / "damaged.mp4").write_bytes(content)
    return folder


def run_check(table: AnnotationTable, sidecar: Path, **options: Any) -> DataReport:
    told = {"progress": options.pop("progress")} if "progress" in options else {}
    return DataCheck(PREPROCESSING, sidecar, workers=0, **options).run(table, encode, **told)


@pytest.fixture
def check(media: Path, tmp_path: Path) -> Callable[..., DataReport]:
    def run(*items: tuple[str, str, dict[str, object]], decode: bool = False, **options: object) -> DataReport:
        samples = [
            {**files, "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
            for q, a, files in items
        ]
        path = tmp_path / "train.json"
        path.write_text(json.dumps(samples))
        table = AnnotationTable.open([Source(path, media)], tmp_path / "cache")
        return run_check(table, tmp_path / "checked.jsonl", decode=decode, **options)

    return run


GOOD = ("<video>A?", "B", {"video": "good.mp4"})


def test_findings_name_the_versions_of_the_files(check: Callable[..., DataReport], media: Path, tmp_path: Path) -> None:
    files = ("gone.mp4", "text.mp4")
    report = check(*(("<video>A?", "B", {"video": file}) for file in files))
    versions = [{str(media / file): version_of(str(media / file))} for file in files]
    assert [finding.files for finding in report.findings] == versions and GONE in versions[0].values()
    assert report.write_exclusions(tmp_path / "excluded.jsonl") == len(files)
    lines = [json.loads(line)["files"] for line in (tmp_path / "excluded.jsonl").read_text().splitlines()]
    assert lines == [{path: list(version) for path, version in one.items()} for one in versions]


@pytest.mark.parametrize("decode", [False, True])
def test_good_data_give_an_empty_report(check: Callable[..., DataReport], decode: bool) -> None:
    report = check(GOOD, ("<image>A?", "B", {"image": "good.png"}), ("A?", "B", {}), decode=decode)
    assert report.findings == []
    assert (report.num_samples, report.num_files) == (3, 2)


def test_every_problem_is_counted_by_its_reason(check: Callable[..., DataReport]) -> None:
    report = check(
        GOOD,
        ("<video>A?", "B", {"video": "nowhere.mp4"}),
        ("<video>A?", "B", {"video": "nowhere.mp4"}),
        ("<video>A?", "B", {"video": "empty.mp4"}),
        ("<video>A?", "B", {"video": "text.mp4"}),
        ("<video>A?", "B", {"video": "pipe.mp4"}),
        ("<video>A?", "B", {"video": "good.png"}),
        ("<image>A?", "B", {"image": "good.mp4"}),
        ("<video>A?", "B", {"video": "../media/good.mp4"}),
        ("<video><video>A?", "B", {"video": "good.mp4"}),
        ("", "", {}),
    )
    assert report.excluded == {
        "missing file": 2,
        "unreadable file": 3,
        "wrong kind of file": 2,
        "unsafe path": 1,
        "tags and media differ in number": 1,
        "no words": 1,
    }


def test_a_finding_names_sample_source_and_file(check: Callable[..., DataReport], media: Path) -> None:
    (finding,) = check(GOOD, ("<video>A?", "B", {"video": "nowhere.mp4"})).findings
    assert finding.id == "train:1"
    assert finding.source.endswith("train.json")
    assert str(media / "nowhere.mp4") in finding.detail


def test_samples_that_only_lose_their_loss_stay(check: Callable[..., DataReport]) -> None:
    report = check(("A?", "", {}), ("A" * 60, "B", {}))
    assert not report.excluded
    assert report.noted == {"empty answer": 1, "longer than the length limit": 1}


def test_only_decoding_finds_damaged_pictures(check: Callable[..., DataReport]) -> None:
    damaged = ("<video>A?", "B", {"video": "damaged.mp4"})
    assert not check(damaged).excluded
    assert check(damaged, decode=True).excluded == {"cannot be decoded": 1}


def test_the_exclusion_list_is_what_training_leaves_out(check: Callable[..., DataReport], tmp_path: Path) -> None:
    report = check(GOOD, ("<video><image>A?", "B", {"video": "nowhere.mp4", "image": "nowhere.png"}))
    path = tmp_path / "stage" / "excluded.jsonl"
    assert report.write_exclusions(path) == 1
    (line,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert (line["id"], line["reason"]) == ("train:1", "missing file")


def test_a_new_check_replaces_the_old_one_and_keeps_what_training_added(
    check: Callable[..., DataReport], tmp_path: Path
) -> None:
    path = tmp_path / "excluded.jsonl"
    check(("<video>A?", "B", {"video": "nowhere.mp4"})).write_exclusions(path)
    added = json.dumps({"id": "train:0", "index": 0, "step": 3, "path": None, "reason": "bad"})
    path.write_text(path.read_text() + added + "\n")
    check(GOOD).write_exclusions(path)
    assert path.read_text() == added + "\n"


def test_a_second_check_does_not_open_good_files_again(
    check: Callable[..., DataReport], media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    check(GOOD, decode=True)
    assert not check(GOOD, decode=True, progress=lambda *what: opened.append(what)).excluded
    assert {what for what, _, _ in opened} == {"samples"}
    stat = (media / "good.mp4").stat()
    (media / "good.mp4").write_bytes(bytes(stat.st_size))
    os.utime(media / "good.mp4", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert check(GOOD).excluded == {"unreadable file": 1}


def test_a_file_known_from_an_earlier_check_must_still_be_of_the_right_kind(check: Callable[..., DataReport]) -> None:
    check(GOOD)
    assert check(("<image>A?", "B", {"image": "good.mp4"})).excluded == {"wrong kind of file": 1}


def test_a_line_torn_by_a_kill_does_not_matter(check: Callable[..., DataReport], tmp_path: Path) -> None:
    check(GOOD)
    sidecar = tmp_path / "checked.jsonl"
    whole = sidecar.read_bytes()
    sidecar.write_bytes(whole[:-5])
    assert not check(GOOD).excluded
    assert sidecar.read_bytes() == whole


@pytest.fixture
def check_stored(media: Path, tmp_path: Path) -> Callable[..., DataReport]:
    """Checks samples named by id, one for each of the ids, with the features in the folder ``clip``."""
    folder = tmp_path / "clip"
    folder.mkdir()

    def run(*ids: str, source: dict[str, object] | None = None, meta: object = None, **options: object) -> DataReport:
        turns = [{"from": "human", "value": "<video>A?"}, {"from": "gpt", "value": "B"}]
        path = tmp_path / "stored.json"
        path.write_text(json.dumps([{"id": name, "conversations": turns, "meta": meta} for name in ids]))
        opened = Source(**{"annotations": path, "media": None, "features": {"video": folder}, **(source or {})})  # type: ignore[arg-type]
        table = AnnotationTable.open([opened], tmp_path / "cache")
        return run_check(table, tmp_path / "checked.jsonl", **options)

    return run


def test_missing_features_are_counted_and_listed(check_stored: Callable[..., DataReport], tmp_path: Path) -> None:
    np.save(tmp_path / "clip/a.npy", np.ones((3, 2), np.float16))
    report = check_stored("a", "b", "c")
    assert (report.num_samples, report.num_files) == (3, 1)
    assert report.excluded == {"features missing": 2}
    report.write_exclusions(tmp_path / "excluded.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "excluded.jsonl").read_text().splitlines()]
    assert [(line["id"], line["reason"]) for line in lines] == [
        ("stored:1", "features missing"), ("stored:2", "features missing")
    ]  # fmt: skip
    assert "'b'" in lines[0]["detail"] and str(tmp_path / "clip") in lines[0]["detail"]


def test_the_file_itself_is_checked_where_its_features_are_missing(
    check_stored: Callable[..., DataReport], media: Path
) -> None:
    report = check_stored("good", "text", source={"media": media})
    assert report.excluded == {"unreadable file": 1}


def test_features_are_read_only_when_files_are_decoded(check_stored: Callable[..., DataReport], tmp_path: Path) -> None:
    np.save(tmp_path / "clip/good.npy", np.ones((3, 2), np.float16))
    np.save(tmp_path / "clip/nan.npy", np.full((3, 2), np.nan, np.float16))
    whole = (tmp_path / "clip/good.npy").read_bytes()
    (tmp_path / "clip/short.npy").write_bytes(whole[:-4])
    assert not check_stored("good", "nan", "short").findings
    report = check_stored("good", "nan", "short", decode=True)
    assert report.excluded == {"features not finite": 1, "features cannot be read": 1}
    assert "nan.npy" in report.findings[0].detail


def test_times_that_cannot_be_are_counted(check_stored: Callable[..., DataReport], tmp_path: Path) -> None:
    np.save(tmp_path / "clip/a.npy", np.ones((3, 2), np.float16))
    report = check_stored("a", meta={"duration": 9.0, "token": {"<s0>": 5, "<e0>": 4}})
    assert report.excluded == {"times in the wrong order": 1}


def test_companions_without_features_are_noted(check_stored: Callable[..., DataReport], tmp_path: Path) -> None:
    for name in ("a", "b"):
        np.save(tmp_path / f"clip/{name}.npy", np.ones((3, 2), np.float16))
    (tmp_path / "ears").mkdir()
    np.save(tmp_path / "ears/a.npy", np.ones((3, 2), np.float16))
    stored = {"features": {"video": tmp_path / "clip", "audio": tmp_path / "ears"}}
    report = check_stored("a", "b", source=stored, companions={"video": ["audio", "speech"]})
    assert not report.excluded
    assert [(finding.id, finding.reason) for finding in report.findings] == [("stored:1", "no audio features")]


def test_a_file_much_longer_than_the_clip_of_its_times_is_noted(
    check_stored: Callable[..., DataReport], media: Path
) -> None:
    short, long = ({"duration": seconds, "token": {"<s0>": 0}} for seconds in (1.5, 9.0))
    for _ in range(2):
        assert not check_stored("good", source={"media": media}, meta=short).findings
        report = check_stored("good", source={"media": media}, meta=long)
        assert not report.excluded and report.noted == {"clip and file differ in length": 1}
        assert "lasts 0.8 seconds but the times are of a clip of 9" in report.findings[0].detail


def test_a_file_that_two_streams_read_is_looked_at_once(
    check_stored: Callable[..., DataReport], media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(sys.modules[__name__], "COMPANIONS", ("image",))
    report = check_stored("good", source={"media": media}, progress=lambda *what: seen.append(what))
    assert [what for what in seen if what[0] == "files"] == [("files", 1, 1)]
    assert report.excluded == {"wrong kind of file": 1}


def test_the_check_knows_what_every_preprocessing_reads() -> None:
    (members, *_) = get_args(Preprocessing)
    assert set(KINDS) == {member.model_fields["kind"].default for member in get_args(members)}


TARGET = {"frame_path": "frames", "frame_id": ["a.png", "b.png"], "track_list": [[1, 1, 9, 9], []], "caption": "Red."}
STEPS = {"video": PREPROCESSING["video"], "box": RegionPreprocessing(size=16, num_boxes=1)}


@pytest.mark.parametrize("decode", [False, True])
def test_every_wrong_box_is_named(media: Path, tmp_path: Path, decode: bool) -> None:
    (media / "frames").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 20)).save(media / "frames" / name)
    changes: list[dict[str, Any]] = [
        {},
        {"key_frame_id": "a.png", "key_frame_box": [5, 5, 5, 9]},
        {"key_frame_id": "b.png", "key_frame_box": [20, 0, 25, 9]},
        {"key_frame_id": "c.png", "key_frame_box": [0, 0, 5, 9]},
        {"track_list": [[1, 1, 9, 9]]},
        {"frame_path": "good.mp4", "frame_id": [0, 3], "track_list": [[0, 0, 5, 5], [40, 0, 50, 50]]},
        {"frame_path": "good.mp4", "frame_id": [0, 9], "track_list": [[], [0, 0, 5, 5]]},
        {"frame_path": "good.mp4", "frame_id": [0, 3], "track_list": [[-9, 0, 5, 99.5], []]},
        {"track_list": [[20, 0, 25, 9], []], "caption": "masked"},
    ]
    path = tmp_path / "targets.json"
    path.write_text(json.dumps([TARGET | change for change in changes]))
    table = AnnotationTable.open([Source(path, media, format="referring")], tmp_path / "cache")

    def encode_box(sample: Sample) -> Checked:
        masked = "masked" if sample.turns[1].text == "masked" else None
        return Checked([Medium(ref) for ref in sample.media if ref.stream != "track"], masked)

    for _ in range(2):  # the second time most files are known
        report = DataCheck(STEPS, tmp_path / "checked.jsonl", decode=decode, workers=0).run(table, encode_box)
        told = {finding.id: (finding.reason, finding.detail) for finding in report.findings}
        reason = "cannot be decoded" if decode else "missing frame"
        assert told["targets:6"] == (reason, f"{media / 'good.mp4'}: a box is in frame 9, but its frames are 0 to 3")
        outside = "(20, 0, 25, 9) lies outside the frame of 20x20 pixels"
        assert told.keys() == {f"targets:{number}" for number in (1, 2, 3, 4, 5, 6, 8)}
        assert told["targets:1"] == ("wrong box", "key_frame_box has no area (5, 5, 5, 9)")
        # Noted too, because nothing of it is supervised.
        assert told["targets:8"][0] == ("cannot be decoded" if decode else "box outside the frame")
        assert outside in told["targets:2"][1] and ("c.png" in told["targets:3"][1])
        assert told["targets:4"][0] == "frames and boxes differ in number"
        assert told["targets:5"][0] == "box outside the frame" and "32x32" in told["targets:5"][1]
