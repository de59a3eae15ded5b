import json
from pathlib import Path

import pytest

from vidtune.data.official_json import read_records
from vidtune.errors import UserError

TURN = '{"from": "human", "value": "A?"}'


def read(content: str | bytes) -> list[object]:
    return list(read_records(Path("train.json"), content.encode() if isinstance(content, str) else content))


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
        (f'[\n{{"conversations": [{TURN}]}},\n  {{"id": 1 2}}]', "line 3 column 12"),
        (f'[{{"conversations": [{TURN}]}}', "line 1 column 55.*Expecting ',' or ']'"),
        (f'[{{"conversations": [{TURN}]}} {{', "line 1 column 56.*Expecting ',' or ']'"),
        ("[1, 2,]", "item 0: expected an object, found a number"),
        ("[]\n[]", "line 2 column 1.*Extra text"),
        ('{"a": []}', "expected a JSON list"),
        ("", "expected a JSON list"),
        (b'[\n{"id": "\xff"}]', "line 2: not UTF-8"),
    ],
)
def test_broken_files_say_where(content: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=f"train.json: .*{message}"):
        read(content)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({}, "key 'conversations': expected a list of turns, found nothing"),
        ({"conversations": []}, "key 'conversations': expected a list of turns, found an empty one"),
        ({"conversations": ["A?"]}, r"key 'conversations\[0\]': expected an object, found a string"),
        ({"conversations": [{"from": "human"}]}, r"conversations\[0\]\.value': expected a string, found nothing"),
        ({"conversations": [{"from": "bot", "value": ""}]}, r"conversations\[0\]\.from': .* found 'bot'"),
        ({"image": 3, "conversations": [json.loads(TURN)]}, "key 'image': .* found a number"),
        ({"video": ["a.mp4", ""], "conversations": [json.loads(TURN)]}, "key 'video': .* found an empty one"),
        ({"id": [1], "conversations": [json.loads(TURN)]}, "key 'id': .* found a list"),
    ],
)
def test_a_wrong_type_is_named_by_index_and_key(sample: dict[str, object], message: str) -> None:
    good = {"conversations": [json.loads(TURN)]}
    with pytest.raises(UserError, match=f"train.json: item 1: .*{message}"):
        read(json.dumps([good, sample]))
