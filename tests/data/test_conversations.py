import json
from pathlib import Path
from typing import Any

import pytest

from vidtune.data.annotation import check_times
from vidtune.data.conversations import read_conversations
from vidtune.data.forms.records import UNUSABLE
from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Times
from vidtune.errors import UserError

TURN = '{"from": "human", "value": "A?"}'


def read(content: str | bytes) -> list[object]:
    """The annotations of a file; raises the problem of the first that has one."""
    found = list(read_conversations(Path("train.json"), content.encode() if isinstance(content, str) else content))
    wrong = next((annotation.problem for annotation in found if annotation.problem), None)
    if wrong is not None:
        assert wrong[0] == UNUSABLE
        raise UserError(f"train.json: {wrong[1]}")
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("content", ["[]", " \n[ \t]\r\n", "\ufeff[]"])
def test_an_empty_list_holds_nothing(content: str) -> None:
    assert read(content) == []


@pytest.mark.parametrize("space", ["", " ", "\n\t "])
def test_white_space_does_not_matter(space: str) -> None:
    sample = f'{{"conversations": [{TURN}]}}'
    assert len(read(space.join(["[", sample, ",", sample, "]"]))) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f'[\n{{"conversations": [{TURN}]}},\n  {{"id": 1 2}}]', "line 3, column 12"),
        (f'[{{"conversations": [{TURN}]}}', "line 1, column 55.*Expecting ',' or ']'"),
        (f'[{{"conversations": [{TURN}]}} {{', "line 1, column 56.*Expecting ',' or ']'"),
        ("[1, 2,]", "line 1, column 7"),
        ("[]\n[]", "line 2, column 1.*Extra text"),
        ("[" + "[" * 200 + "]" * 200 + ", {}]", "line 1: not valid JSON .more than 100 nested levels"),
        ("[" * 100_000, "line 1, column 2.*more than 100 nested levels"),
        ("[1, 2]", "line 1: expected an object, found a number"),
        ('{"a": []}', "line 1: key 'conversations': expected a list of turns, found nothing"),
        ("3", "expected a JSON list"),
        ("", "expected a JSON list"),
        (b'[\n{"id": "\xff"}]', "line 2: not UTF-8 text .byte 0xFF"),
    ],
)
def test_broken_files_say_where(content: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=f"train.json: .*{message}"):
        read(content)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({}, "key 'conversations': expected a list of turns, found nothing"),
        ({"track_list": []}, "found nothing; with track_list it is of format: referring"),
        ({"conversations": []}, "key 'conversations': expected a list of turns, found an empty one"),
        ({"conversations": ["A?"]}, r"key 'conversations\[0\]': expected an object, found a string"),
        ({"conversations": [{"from": "human"}]}, r"conversations\[0\]\.value': expected a string, found nothing"),
        ({"conversations": [{"from": "bot", "value": ""}]}, r"conversations\[0\]\.from': .* found 'bot'"),
        ({"image": 3, "conversations": [json.loads(TURN)]}, "key 'image': .* found a number"),
        ({"video": ["a.mp4", ""], "conversations": [json.loads(TURN)]}, "key 'video': .* found an empty one"),
    ],
)
def test_a_wrong_type_is_named_by_index_and_key(sample: dict[str, object], message: str) -> None:
    good = {"conversations": [json.loads(TURN)]}
    with pytest.raises(UserError, match=f"train.json: line 1: .*{message}"):
        read(json.dumps([good, sample]))


def timed(meta: object, **item: object) -> dict[str, object]:
    return {"id": "a", **item, "conversations": [json.loads(TURN)], "meta": meta}


def test_times_are_the_duration_and_the_seconds_of_every_mark() -> None:
    meta = {"duration": 54.2, "split": [129.8, 184.0], "token": {"<s0>": 0, "<e0>": 9.4, "<s9>": 50}}
    with_times, without, null = read(json.dumps([timed(meta), {"conversations": [json.loads(TURN)]}, timed(None)]))
    assert with_times.times == Times(54.2, (("<s0>", 0), ("<e0>", 9.4), ("<s9>", 50)))  # type: ignore[attr-defined]
    assert without.times is null.times is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ([], "key 'meta': expected an object, found an empty one"),
        ({"token": {}}, "key 'meta.duration': expected a number of seconds, found nothing"),
        ({"duration": 3.0}, "key 'meta.token': expected an object .* found nothing"),
        ({"duration": "3", "token": {}}, "key 'meta.duration': .* found a string"),
        ({"duration": True, "token": {}}, "key 'meta.duration': .* found a truth value"),
        ({"duration": 3, "token": ["<s0>"]}, "key 'meta.token': .* found a list"),
        (
            {"duration": 3, "token": {"<s0>": None}},
            "key 'meta.token.<s0>': expected a number of seconds, found nothing",
        ),
        ({"duration": 3, "token": {"": 1}}, "key 'meta.token': expected marks .* found an empty one"),
    ],
)
def test_wrong_times_are_named_by_index_and_key(meta: object, message: str) -> None:
    with pytest.raises(UserError, match=f"train.json: line 1: {message}"):
        read(json.dumps([timed(meta)]))


def test_a_number_of_any_size_is_a_number() -> None:
    meta = f'{{"duration": 1{"0" * 400}, "token": {{"<s0>": 1}}}}'
    (record,) = read(f'[{{"conversations": [{TURN}], "meta": {meta}}}]')
    assert record.times == Times(float("inf"), (("<s0>", 1),))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("duration", "marks", "reason"),
    [
        (9.0, {"<s0>": 1, "<e0>": 1, "<s1>": 8, "<e1>": 9.5, "<e2>": 0, "<s3>": 4}, None),
        (9.0, {"<e0>": 1.0, "<s0>": 2.0}, "times in the wrong order"),
        (9.0, {"<s0>": 1.0, "<e0>": 3.0, "<s10>": 5, "<e10>": 4}, "times in the wrong order"),
        (9.0, {"<s0>": -0.5}, "time outside the clip"),
        (9.0, {"<s0>": float("nan")}, "time outside the clip"),
        (0.0, {}, "no duration"),
        (float("inf"), {"<s0>": 1.0}, "no duration"),
    ],
)
def test_times_that_cannot_be_are_a_problem_of_their_sample(
    duration: float, marks: dict[str, float], reason: str | None
) -> None:
    times = Times(duration, tuple(marks.items()))
    if reason is None:
        check_times(times)
        return
    with pytest.raises(SampleProblem) as caught:
        check_times(times)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("item", "media"),
    [
        ({"id": "AbC"}, (("video", None),)),
        ({"id": 17}, (("video", None),)),
        ({"id": "AbC", "video": "b.mp4"}, (("video", "b.mp4"),)),
        ({"id": "AbC", "video": None}, ()),
        ({"id": ""}, ()),
        ({}, ()),
    ],
)
def test_a_tag_without_a_file_is_named_by_the_id(item: dict[str, Any], media: tuple[object, ...]) -> None:
    turns = [{"from": "human", "value": "<video>\nA?"}, {"from": "gpt", "value": "B"}]
    (record,) = read(json.dumps([{**item, "conversations": turns}]))
    assert record.media == media  # type: ignore[attr-defined]


def test_two_tags_cannot_both_be_the_id() -> None:
    (record,) = read('[{"id": "a", "conversations": [{"from": "human", "value": "<video><image>"}]}]')
    assert record.media == ()  # type: ignore[attr-defined]


BOXES = {"boxes": [[0.1, 0.2], [0.3, 0.4]], "second": 2}


@pytest.mark.parametrize(
    ("media", "extras", "expected"),
    [
        ({"video": "a.mp4"}, {"video": BOXES}, ((("boxes", ((0.1, 0.2), (0.3, 0.4))), ("second", 2)),)),
        ({"video": "a.mp4", "image": ["b", "c"]}, {"image": [{"x": 1}, {}]}, ((), (("x", 1),), ())),
        ({"video": "a.mp4"}, {}, ((),)),
        ({"video": "a.mp4"}, None, ()),
    ],
)
def test_extras_belong_to_their_medium(media, extras, expected) -> None:
    sample = {**media, "conversations": [json.loads(TURN)], **({} if extras is None else {"extras": extras})}
    [annotation] = read(json.dumps([sample]))
    assert annotation.extras == expected  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ([], "key 'extras': expected an object that gives streams their numbers, found an empty one"),
        ({"audio": BOXES}, "key 'extras.audio': 1 given for 0 audio files"),
        ({"video": [BOXES, BOXES]}, "key 'extras.video': 2 given for 1 video files"),
        ({"video": 3}, "key 'extras.video': expected an object of numbers by name, found a number"),
        ({"video": {"boxes": [[1, 2], [3]]}}, "key 'extras.video.boxes': its lists differ in length"),
        ({"video": {"boxes": ["a"]}}, "key 'extras.video.boxes': expected finite numbers"),
        ({"video": {"boxes": [True]}}, "key 'extras.video.boxes': expected finite numbers"),
        ({"video": {"boxes": [float("inf")]}}, "key 'extras.video.boxes': expected finite numbers"),
        ({"video": {"boxes": [1e39]}}, "key 'extras.video.boxes': expected finite numbers"),
    ],
)
def test_extras_of_the_wrong_form_say_where(extras, message) -> None:
    sample = {"video": "a.mp4", "conversations": [json.loads(TURN)], "extras": extras}
    with pytest.raises(UserError, match=f"train.json: line 1: {message}"):
        read(json.dumps([{"conversations": [json.loads(TURN)]}, sample]))
