"""Arguments of the public functions of a wrong type: one line names the argument."""

import pytest

import vidtune
from vidtune.errors import UserError


def test_values_of_a_wrong_type_are_named(in_examples):
    model = vidtune.load("tiny-model")
    wrong = [
        ("question", lambda: model.answer(3, video="clip.mp4")),
        ("question", lambda: model.answer([None], video="clip.mp4")),
        ("video", lambda: model.answer("What?", video=3)),
        ("without", lambda: model.answer("What?", video="clip.mp4", without=3)),
        ("folder", lambda: model.save(None)),
        ("out", lambda: vidtune.train("tiny.yaml", out=None)),
        ("overrides", lambda: vidtune.train("tiny.yaml", out="run", overrides=[3])),
        ("data", lambda: vidtune.evaluate(model, "world_qa", data=None, out="eval")),
    ]
    for name, call in wrong:
        with pytest.raises(UserError, match=f"^{name}: expected "):
            call()
