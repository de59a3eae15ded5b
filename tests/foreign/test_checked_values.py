"""Values are checked where they are read or given, before anything starts."""

import math

import pytest
import typer

from vidtune.cli.options.loading import limit_of
from vidtune.errors import UserError
from vidtune.foreign.documents import require_types
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
