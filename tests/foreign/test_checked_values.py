"""Values are checked where they are read or given, before anything starts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
import typer

from vidtune.cli.options.loading import limit_of
from vidtune.errors import UserError
from vidtune.foreign.documents import require_types, types_of
from vidtune.generation.settings import GenerationSettings
from vidtune.machine.records import read_as


@pytest.mark.parametrize("values", [{"temperature": 1e-40}, {"temperature": 1e39}, {"top_k": 2**40}])
def test_decoding_settings_that_overflow_are_refused(values):
    with pytest.raises(UserError, match=f"generation: {next(iter(values))} is "):
        GenerationSettings(do_sample=True, **values)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf, 1e300])
def test_time_limits_are_seconds_above_0(seconds):
    with pytest.raises(typer.BadParameter, match="is no time limit"):
        limit_of(seconds)
    assert limit_of(60.0) == 60.0


def test_a_record_of_another_form_is_named_with_its_line(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"index": 1}\n{"index": true}\n')

    def index(record):
        require_types(record, {"index": int, "type": (str, type(None))})
        return record["index"]

    records = read_as(path, index)
    assert next(records) == 1
    with pytest.raises(UserError, match=r"records\.jsonl: line 2: cannot be read \(ValueError: 'index' is missing or"):
        next(records)


@dataclass
class Line:
    name: str
    seconds: float
    places: Sequence[int] | None = None
    texts: Mapping[str, str] | None = None
    answer: str | int | float = ""
    open: bool | None = None


def test_the_fields_of_a_dataclass_say_what_json_holds():
    types = types_of(Line)
    require_types({"name": "a", "seconds": 1, "answer": 2.5}, types)
    require_types({"name": "a", "seconds": 0.5, "answer": "b", "places": [1], "texts": {}, "open": True}, types)
    good = {"name": "a", "seconds": 1.0, "answer": "b"}
    wrong = {"name": None, "seconds": "1", "places": (1,), "texts": [], "answer": None, "open": 1}
    for key, value in [*wrong.items(), ("seconds", True)]:
        with pytest.raises(ValueError, match=f"'{key}' is missing or has a wrong value"):
            require_types({**good, key: value}, types)
