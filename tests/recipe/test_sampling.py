"""Which samples of a file a sampling takes, and what is no sampling."""

import pytest

from vidtune.errors import UserError
from vidtune.recipe.files import load_recipe
from vidtune.recipe.sampling import Sampling
from vidtune.recipe.types import DataSource


@pytest.mark.parametrize(
    ("text", "count", "first", "last"),
    [
        ("all", 7, 0, 6),
        ("first:3", 10, 0, 2),
        ("first:25%", 10, 0, 2),  # shares are rounded up
        ("first2:3", 10, 3, 5),
        ("first4:3", 10, 9, 9),  # the file ends inside the block
        ("end:4", 10, 6, 9),
        ("end:15%", 10, 8, 9),
        ("end:100", 2, 0, 1),
        ("first:50%", 1, 0, 0),
    ],
)
def test_a_block_of_a_file(text: str, count: int, first: int, last: int) -> None:
    assert Sampling.parse(text).block(count) == range(first, last + 1)


def test_a_block_behind_the_end_is_empty() -> None:
    assert len(Sampling.parse("first3:5").block(10)) == len(Sampling.parse("all").block(0)) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frist:10", "unknown sampling 'frist:10'; did you mean 'first'"),
        ("", "unknown sampling ''; known: all, end, first"),
        ("first5:10", "unknown sampling"),
        ("first", "wrong sampling 'first'; write first:1000, or first:25%"),
        ("first:12.5%", "whole number of percent"),
        ("end:0", "wrong sampling 'end:0'"),
        ("end:-3", "wrong sampling"),
        ("first:101%", "no more than 100%"),
        ("all:3", "wrong sampling 'all:3'; write all"),
    ],
)
def test_what_is_no_sampling_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling.parse(text)
    with pytest.raises(ValueError, match=message):
        DataSource(annotations="a.json", sampling=text)


def test_a_recipe_names_the_key_of_a_wrong_sampling() -> None:
    with pytest.raises(UserError, match=r"stages\.0\.data\.0\.sampling=some': unknown sampling 'some'"):
        load_recipe("video_llava", ["stages.0.data.0.sampling=some"], expand=False)
