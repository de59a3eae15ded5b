"""The table of preprocessing kinds."""

from typing import get_args

from vidtune.media.preprocessing.kinds import KINDS, Preprocessing


def test_the_table_and_the_type_of_the_field_hold_the_same_kinds() -> None:
    assert {name: kind().kind for name, kind in KINDS.items()} == {name: name for name in KINDS}
    assert set(get_args(get_args(Preprocessing)[0])) == set(KINDS.values())
