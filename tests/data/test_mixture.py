"""Lists of data sets in YAML: which samples of which files they stand for, and what is not there."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from vidtune.data.sources import data_sets, left_out_sets, of_each_file
from vidtune.data.tables import AnnotationTable
from vidtune.errors import UserError
from vidtune.recipe.types import DataSource


def conversation(**item: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A."}]
    return {**item, "conversations": turns}


def write(path: Path, samples: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.suffix == ".jsonl"
    path.write_text("\n".join(map(json.dumps, samples)) + "\n" if lines else json.dumps(samples))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A mixture's folder, with one file of three pictures and one of two clips."""
    write(tmp_path / "annotations/pictures.json", [conversation(id=n, image=f"{n}.png") for n in range(3)])
    write(tmp_path / "annotations/clips.jsonl", [conversation(id=n, video=f"{n}.mp4") for n in range(2)])
    for name in ("pictures/0.png", "media/clips/0.mp4"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    return tmp_path


PICTURES = {"json_path": "annotations/pictures.json", "data_root": "https://example.org/pictures"}
CLIPS = {"json_path": "annotations/clips.jsonl", "data_root": "media/clips/", "sampling_strategy": "end:50%"}


def source(folder: Path, *entries: Any, **settings: Any) -> DataSource:
    path = folder / "mix.yaml"
    path.write_text(yaml.safe_dump({"datasets": list(entries)}, sort_keys=False))
    settings.setdefault("roots", {"https://example.org": str(folder)})
    return DataSource(annotations=str(path), format="mixture", **settings)


def table(source: DataSource, cache: Path) -> AnnotationTable:
    return AnnotationTable.open([source], cache / "tables")


def test_the_samples_of_all_sets_in_order(folder: Path) -> None:
    found = table(source(folder, CLIPS, PICTURES), folder)
    assert [found.id(n) for n in range(len(found))] == ["clips:1", "pictures:0", "pictures:1", "pictures:2"]
    paths = [found[n].media[0].path for n in range(2)]
    assert paths == [str(folder / "media/clips/1.mp4"), str(folder / "pictures/0.png")]
    # The tag of a picture stands for a clip, where a sample has clips only.
    assert (found[0].turns[0].text, found[1].turns[0].text) == ("<video>\nWhat?", "<image>\nWhat?")
    assert found[0].media[0].stream == "video"


def test_the_longest_root_counts_and_ends_between_names(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other/1.png").touch()
    roots = {"https://example.org/pic": "/nowhere", "https://example.org": "/nowhere"}
    roots |= {"https://example.org/pictures/": str(folder / "other")}
    (expanded,) = of_each_file([source(folder, PICTURES, roots=roots)])
    assert expanded.media == str(folder / "other")
    moved = {"json_path": "lists/pictures.json", "data_root": "https://example.org/pictures"}
    (expanded,) = of_each_file([source(folder, moved, roots={**roots, "lists": str(folder / "annotations")})])
    assert expanded.annotations == str(folder / "annotations/pictures.json")


def test_texts_and_whole_paths_get_no_root(folder: Path) -> None:
    whole = {**PICTURES, "data_root": "https://elsewhere.org", "media_type": "mix"}
    sets = of_each_file([source(folder, whole, {**whole, "media_type": "text"}, media="/all")])
    assert [one.media for one in sets] == ["/all", "/all"]


def test_sets_without_a_root_are_below_the_media_folder_of_the_recipe(folder: Path) -> None:
    (one,) = of_each_file([source(folder, {"json_path": "annotations/pictures.json"}, media="/all")])
    assert one.media == "/all"


def test_the_recipe_gives_its_weight_to_every_set(folder: Path) -> None:
    assert [one.weight for one in of_each_file([source(folder, CLIPS, PICTURES, weight=2)])] == [2, 2]


@pytest.mark.parametrize(
    ("keys", "rate"),
    [
        ({}, None),
        ({"video_read_type": "decord"}, None),
        ({"video_read_type": "gif"}, 1.0),
        ({"video_read_type": "img"}, 1.0),
        ({"video_read_type": "img", "frame_rate": 3}, 3.0),
        ({"frame_rate": 0.5}, 0.5),
    ],
)
def test_the_frame_rate_of_a_set_reaches_its_videos(keys: dict[str, Any], rate: float | None, folder: Path) -> None:
    write(folder / "annotations/own.json", [conversation(video="0.mp4"), conversation(video="0.mp4", frame_rate=7)])
    found = table(
        source(folder, {**CLIPS, **keys}, {"json_path": "annotations/own.json", "data_root": "media/clips", **keys}),
        folder,
    )
    assert [found[n].media[0].fps for n in range(3)] == [rate, rate, 7]
    assert pickle.loads(pickle.dumps(found))[0].media[0].fps == rate
    assert table(source(folder, {**PICTURES, **keys}), folder)[0].media[0].fps is None


def test_a_random_part_is_the_same_every_time_and_another_for_another_file(folder: Path) -> None:
    for name, start in (("a", 0), ("b", 1000)):
        write(folder / f"annotations/{name}.jsonl", [conversation(id=start + n, image="0.png") for n in range(100)])
    entry = {**PICTURES, "json_path": "annotations/a.jsonl", "sampling_strategy": "random:20%"}
    (chosen,) = table(source(folder, entry), folder).selections
    assert len(set(chosen.tolist())) == 20 and (chosen[1:] > chosen[:-1]).all() and chosen[0] < 50 < chosen[-1]
    again, other = table(source(folder, entry, {**entry, "json_path": "annotations/b.jsonl"}), folder).selections
    assert again.tolist() == chosen.tolist() != other.tolist()


def test_what_is_sampled_tells_data_apart(folder: Path) -> None:
    part = {**PICTURES, "sampling_strategy": "first:2"}
    end = {**PICTURES, "sampling_strategy": "end:2"}
    prints = {table(source(folder, entry), folder).fingerprint for entry in (PICTURES, part, end)}
    assert len(prints) == 3


def test_sets_that_are_not_there_are_refused_or_left_out(folder: Path) -> None:
    (folder / "empty").mkdir()
    absent = [
        {"json_path": "https://other.org/a.json"},
        {"json_path": "annotations/gone.json"},
        {**CLIPS, "data_root": "gone/"},
        {**CLIPS, "data_root": "empty"},
    ]
    mixed = source(folder, absent[0], PICTURES, *absent[1:])
    missing = [one.missing for one in data_sets(mixed) or []]
    assert missing == [
        "no folder stands for https://other.org/a.json; name one in roots",
        "",
        f"{folder}/annotations/gone.json does not exist",
        f"{folder}/gone does not exist",
        f"the folder {folder}/empty is empty",
    ]
    with pytest.raises(UserError, match=r"lacks 4 of its 5 data sets; the first, .*mix.yaml:2:3: no folder"):
        of_each_file([mixed])
    left = mixed.model_copy(update={"missing_sets": "leave_out"})
    assert [one.annotations for one in of_each_file([left])] == [str(folder / "annotations/pictures.json")]
    (note,) = left_out_sets([left])
    assert note.startswith(f"{folder}/mix.yaml lacks 4 of its 5 data sets, left out here") and "gone.json" in note
    with pytest.raises(UserError, match="lacks 1 of its 1 data set"):
        of_each_file([source(folder, absent[0], missing_sets="leave_out")])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**PICTURES, "sampling_strategy": "frist:10%"}, r"mix.yaml:4:\d+: sampling_strategy: unknown sampling 'frist"),
        ({**PICTURES, "sampling_strategy": 3}, "sampling_strategy: expected a text, not 3"),
        ({**PICTURES, "media_type": "sound"}, "unknown media_type 'sound'; known: image, mix, text, video"),
        ({**CLIPS, "frame_rate": 0}, "frame_rate: expected a number above 0, not 0"),
        ({**PICTURES, "video_read_type": "fake"}, "unknown video_read_type 'fake'"),
        ({**PICTURES, "sampling": "all"}, r"mix.yaml:4:\d+: unknown key 'sampling'; did you mean 'sampling_strategy'"),
        ({"data_root": "pictures"}, r"mix.yaml:2:\d+: the key 'json_path' is missing"),
        ("pictures.json", "expected a mapping that starts with json_path"),
    ],
)
def test_a_wrong_set_is_named_by_its_place(entry: Any, message: str, folder: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        of_each_file([source(folder, entry)])
    assert "\n" not in str(caught.value)


def test_what_is_no_list_of_sets_is_refused(folder: Path) -> None:
    listed = source(folder)
    with pytest.raises(UserError, match="names no data set"):
        of_each_file([listed])
    Path(listed.annotations).write_text("- json_path: a.json")
    with pytest.raises(UserError, match="expected a mapping with the key 'datasets'"):
        of_each_file([listed])
    with pytest.raises(UserError, match="expected a JSON list of samples; a list of data sets is of format: mixture"):
        table(DataSource(annotations=listed.annotations), folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"roots": {"a": "b"}}, "roots belongs to a list of data sets"),
        ({"missing_sets": "refuse"}, "missing_sets belongs to a list of data sets"),
        ({"format": "mixture", "frame_rate": 1}, "frame_rate belongs to the sets in this file"),
        ({"format": "mixture", "sampling": "all"}, "sampling belongs to the sets in this file"),
    ],
)
def test_keys_that_would_have_no_effect_are_refused(settings: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(UserError, match=message):
        of_each_file([source(folder, PICTURES).model_copy(update={"format": None, "roots": {}, **settings})])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_set_of_few_samples(count: int, folder: Path) -> None:
    write(folder / "annotations/few.jsonl", [conversation(image="0.png")] * count)
    assert len(table(source(folder, {**PICTURES, "json_path": "annotations/few.jsonl"}), folder)) == count


@pytest.mark.parametrize(
    ("seconds", "message"),
    [({"start": -1}, "start is -1 seconds; give 0 or more"), ({"start": 5, "end": 2}, "start is 5 and end 2 seconds")],
)
def test_impossible_seconds_are_named_by_file_and_sample(seconds: dict[str, Any], message: str, folder: Path) -> None:
    write(folder / "annotations/parts.jsonl", [conversation(video="0.mp4"), conversation(video="0.mp4", **seconds)])
    found = table(source(folder, {**CLIPS, "json_path": "annotations/parts.jsonl"}), folder)
    with pytest.raises(UserError, match=f"sample parts:1: line 2: key 'start': {message}") as caught:
        [found[index] for index in range(len(found))]
    assert "\n" not in str(caught.value)


def test_a_name_that_no_file_can_have_is_a_set_that_is_not_there(folder: Path) -> None:
    (one,) = data_sets(source(folder, {"json_path": "a" * 5000})) or []
    assert one.missing.endswith("cannot be read: File name too long")
