import pytest

from vidtune.errors import UserError
from vidtune.generation.settings import GenerationSettings


@pytest.mark.parametrize(
    "values",
    [
        {"max_new_tokens": 0},
        {"temperature": -1},
        {"top_p": 0},
        {"top_k": -1},
        {"stop": ["a", ""]},
        {"topp": 1},
        {"max_new_tokens": "5"},
        {"max_new_tokens": 1.5},
        {"max_new_tokens": True},
        {"temperature": "hot"},
        {"temperature": float("nan")},
        {"top_p": None},
        {"top_k": 1.5},
        {"seed": "x"},
        {"do_sample": "no"},
        {"stop": 3},
        {"stop": [None]},
    ],
)
def test_wrong_settings_are_named(values):
    with pytest.raises(UserError, match=next(iter(values))):
        GenerationSettings.from_mapping(values)


def test_a_recipe_mapping_becomes_settings():
    settings = GenerationSettings.from_mapping({"stop": ["###"], "do_sample": True, "temperature": 0.2})
    assert settings.stop == ("###",)
    assert not settings.greedy
    assert GenerationSettings(stop="###").stop == ("###",)
