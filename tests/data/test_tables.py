import json
import pickle
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from vidtune.data.annotation import Annotation
from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef, Times, Turn
from vidtune.data.tables import AnnotationTable
from vidtune.errors import UserError
from vidtune.registry import ANNOTATIONS


@dataclass
class Source:
    annotations: Path
    media: Path | None = None
    features: dict[str, Path] = field(default_factory=dict)
    format: str | None = None
    sampling: str | None = None
    frame_rate: float | None = None
    roots: dict[str, str] = field(default_factory=dict)
    missing_sets: str | None = None


def item(question: str, answer: str, **media: object) -> dict[str, object]:
    return {**media, "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


ITEMS = [
    {"id": 17, **item("<image>\nWhat colour?", "Red.", image="a.png")},
    {"id": "x", **item("<video>\nWhat happens?", "A dog runs.", video="clips/b.mp4")},
    item("<video><image><image>\nSame?", "No.", image=["a.png", "c.png"], video="clips/b.mp4"),
    item("Write a haiku.", "Ein \ud83d Stück\u2028漢字."),
]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    (tmp_path / "media").mkdir()
    path = tmp_path / "train.json"
    path.write_text(json.dumps(ITEMS, indent=1), encoding="utf-8")
    return Source(path, tmp_path / "media")


def test_samples_hold_turns_and_media_videos_first(source: Source, tmp_path: Path) -> None:
    table = AnnotationTable.open([source], tmp_path / "cache")
    root = (tmp_path / "media").resolve()
    assert len(table) == 4
    assert table[0].turns == (Turn("user", "<image>\nWhat colour?"), Turn("assistant", "Red."))
    assert table[0].media == (MediaRef("image", str(root / "a.png")),)
    assert [ref.stream for ref in table[2].media] == ["video", "image", "image"]
    assert table[2].media[0].path == str(root / "clips/b.mp4")
    assert table[3].media == ()
    assert table[3].turns[1].text == ITEMS[3]["conversations"][1]["value"]  # type: ignore[index]


def test_ids_are_unique_and_the_original_ones_are_kept_aside(source: Source, tmp_path: Path) -> None:
    table = AnnotationTable.open([source, source], tmp_path / "cache")
    assert [table[k].id for k in (0, 1, 4, 5)] == ["train:0", "train:1", "train~2:0", "train~2:1"]
    assert [table.id(k) for k in range(8)] == [table[k].id for k in range(8)]
    assert [table.original_id(k) for k in range(4)] == ["17", "x", "", ""]


def test_word_lengths_count_all_turns_and_are_negative_for_text(source: Source, tmp_path: Path) -> None:
    table = AnnotationTable.open([source], tmp_path / "cache")
    assert table.word_lengths.tolist() == [4, 6, 3, -7]
    assert table.has_media.tolist() == [True, True, True, False]


def test_a_file_is_parsed_once(source: Source, tmp_path: Path) -> None:
    first = AnnotationTable.open([source], tmp_path / "cache")
    built = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    second = AnnotationTable.open([source], tmp_path / "cache")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")} == built
    assert second[1] == first[1]
    assert isinstance(second.files[0].blob, np.memmap)


def test_a_changed_file_is_parsed_again(source: Source, tmp_path: Path) -> None:
    before = AnnotationTable.open([source], tmp_path / "cache")
    source.annotations.write_text(json.dumps(ITEMS[:2]))
    after = AnnotationTable.open([source], tmp_path / "cache")
    assert len(after) == 2
    assert after.fingerprint != before.fingerprint


def test_the_fingerprint_follows_content_and_order_not_place(source: Source, tmp_path: Path) -> None:
    other = Source(tmp_path / "other.json", source.media)
    other.annotations.write_text(json.dumps(ITEMS[:1]))
    moved = Source(tmp_path / "elsewhere" / "renamed.json", None)
    moved.annotations.parent.mkdir()
    moved.annotations.write_bytes(source.annotations.read_bytes())
    cache = tmp_path / "cache"
    both = AnnotationTable.open([source, other], cache)
    assert AnnotationTable.open([moved, other], cache).fingerprint == both.fingerprint
    assert AnnotationTable.open([other, source], cache).fingerprint != both.fingerprint
    assert both.without(["other:0"]).fingerprint != both.fingerprint


def test_excluded_samples_are_gone(source: Source, tmp_path: Path) -> None:
    table = AnnotationTable.open([source, source], tmp_path / "cache").without(["train:1", "train~2:0", "unknown:3"])
    assert [table[k].id for k in range(len(table))] == [
        "train:0", "train:2", "train:3", "train~2:1", "train~2:2", "train~2:3"
    ]  # fmt: skip
    assert len(table.word_lengths) == len(table.has_media) == len(table) == 6
    assert table.without(["train:0"])[0].id == "train:2"


def read_everything(table: AnnotationTable) -> list[str]:
    return [table[k].id for k in range(len(table))]


def test_a_table_can_be_handed_to_another_process(source: Source, tmp_path: Path) -> None:
    table = AnnotationTable.open([source], tmp_path / "cache")
    with get_context("fork").Pool(1) as pool:
        assert pool.apply(read_everything, (table,)) == read_everything(table)


def test_a_path_out_of_the_media_folder_names_the_sample(source: Source, tmp_path: Path) -> None:
    source.annotations.write_text(json.dumps([item("<video>", "B", video="../secret.mp4")]))
    table = AnnotationTable.open([source], tmp_path / "cache")
    with pytest.raises(SampleProblem, match=r"sample train:0: '\.\./secret\.mp4'"):
        table[0]


def test_media_without_a_media_folder_names_the_sample(source: Source, tmp_path: Path) -> None:
    table = AnnotationTable.open([Source(source.annotations)], tmp_path / "cache")
    assert table[3].media == ()
    with pytest.raises(SampleProblem, match=r"sample train:0: .*no media folder"):
        table[0]


def test_a_broken_file_leaves_nothing_in_the_cache(source: Source, tmp_path: Path) -> None:
    source.annotations.write_text('[{"conversations": []}')
    with pytest.raises(UserError):
        AnnotationTable.open([source], tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.json"):
        AnnotationTable.open([Source(tmp_path / "nowhere.json")], tmp_path / "cache")


def test_an_index_beyond_the_table_is_an_index_error(source: Source, tmp_path: Path) -> None:
    table = AnnotationTable.open([source], tmp_path / "cache")
    assert table[-1].id == "train:3"
    with pytest.raises(IndexError):
        table[4]


def test_times_come_back_from_the_parsed_table(source: Source, tmp_path: Path) -> None:
    meta = {"duration": 54.2, "token": {"<s0>": 0, "<e0>": 9.4}}
    wrong = {"duration": 54.2, "token": {"<s0>": 9.4, "<e0>": 2}}
    items = [{**item("<s0> to <e0>?", "No."), "meta": meta}, item("A?", "B"), {**item("<s0>?", "C"), "meta": wrong}]
    source.annotations.write_text(json.dumps(items))
    table = AnnotationTable.open([source], tmp_path / "cache")
    assert table[0].times == Times(54.2, (("<s0>", 0), ("<e0>", 9.4)))
    assert table[0].turns[0].text == "<s0> to <e0>?"
    assert table[1].times is None
    with pytest.raises(SampleProblem, match=r"sample train:2: <e0>, 2 seconds, comes before <s0>, 9\.4 seconds"):
        table[2]


def test_extras_come_back_from_the_parsed_table(source: Source, tmp_path: Path) -> None:
    extras = {"video": {"boxes": [[0.5, 1], [2, 3]], "second": 4}}
    plain = item("<video>Who?", "B", video="a.mp4")
    timed = {**plain, "extras": extras, "meta": {"duration": 3, "token": {}}}
    source.annotations.write_text(json.dumps([{**plain, "extras": extras}, timed, plain]))
    table = AnnotationTable.open([source], tmp_path / "cache")
    wanted = (("boxes", ((0.5, 1), (2, 3))), ("second", 4))
    assert [table[index].media[0].extras for index in range(3)] == [wanted, wanted, ()]
    assert [table[index].times is None for index in range(3)] == [True, False, True]
    assert len({table[index].media[0] for index in range(3)}) == 2


def test_media_named_by_id_and_their_features_are_found_after_a_journey_to_another_process(
    source: Source, tmp_path: Path
) -> None:
    (tmp_path / "media/AbC.mp4").touch()
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/AbC.npy").touch()
    source.annotations.write_text(
        json.dumps([{"id": "AbC", **item("<video>", "B")}, {"id": "XyZ", **item("<video>", "B")}])
    )
    source.features = {"video": tmp_path / "clip"}
    table = AnnotationTable.open([source], tmp_path / "cache")
    root = tmp_path.resolve()
    expected = MediaRef("video", str(root / "media/AbC.mp4"), (("video", str(root / "clip/AbC.npy")),))
    for opened in (table, pickle.loads(pickle.dumps(table))):
        assert opened[0].media == (expected,)
        with pytest.raises(SampleProblem, match="sample train:1: there are no features of 'XyZ'"):
            opened[1]
    assert table.files[0].by_id.tolist() == [True, True]
    assert table.has_media.tolist() == [True, True]


def read_lines(path: Path, content: bytes):
    """Reader of a format of another package: question, tab, answer."""
    for number, line in enumerate(content.decode().splitlines()):
        question, _, answer = line.partition("\t")
        yield Annotation(str(number), (Turn("user", question), Turn("assistant", answer)), ())


def test_a_format_of_another_package_is_read_by_its_reader(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("Why?\tBecause.\nWho?\tNobody.\n")
    ANNOTATIONS.register("pairs", read_lines)
    try:
        table = AnnotationTable.open([Source(path, format="pairs")], tmp_path / "cache")
    finally:
        ANNOTATIONS.unregister("pairs")
    assert [turn.text for turn in table[1].turns] == ["Who?", "Nobody."]
    with pytest.raises(UserError, match=r"no columns 'question' and 'answer'"):
        AnnotationTable.open([Source(path)], tmp_path / "cache")
    with pytest.raises(UserError, match="unknown annotation format 'conversation'; did you mean 'conversations'"):
        AnnotationTable.open([Source(path, format="conversation")], tmp_path / "cache")


@pytest.mark.parametrize("name", ["offsets.npy", "word_lengths.npy", "has_media.npy", "records.bin", "about.json"])
@pytest.mark.parametrize("damage", ["gone", "cut", "other"])
def test_a_damaged_table_is_made_again_and_that_is_said(name: str, damage: str, source: Source, tmp_path: Path) -> None:
    whole = AnnotationTable.open([source], tmp_path / "cache").fingerprint
    [path] = (tmp_path / "cache").glob(f"*/{name}")
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"\x93NUMPY other")
    with pytest.warns(UserWarning, match="damaged .*its annotations are parsed again"):
        table = AnnotationTable.open([source], tmp_path / "cache")
    assert table.fingerprint == whole and table[0].turns == (
        Turn("user", "<image>\nWhat colour?"),
        Turn("assistant", "Red."),
    )


def test_a_damaged_record_of_a_table_names_the_table(source: Source, tmp_path: Path) -> None:
    AnnotationTable.open([source], tmp_path / "cache")
    [path] = (tmp_path / "cache").glob("*/records.bin")
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(UserError, match=r"-v\d+: damaged .*; delete it"):
        AnnotationTable.open([source], tmp_path / "cache")[0]
