"""Arguments of the public functions of a wrong type: one line names the argument."""

import pytest

import vidtune
from vidtune.errors import UserError


def test_errors_name_arguments_of_python_and_not_options_of_the_command_line(in_examples):
    model = vidtune.load("tiny-model")
    (in_examples / "a.npy").write_bytes(b"")
    wrong = [
        ("which it does not need", "leave out base=", lambda: vidtune.load("tiny-model", base="tiny-model")),
        ("no such file", "features= video: ", lambda: model.answer("What?", features={"video": "none.npy"})),
        ("no differences", "leave out difference_from=", lambda: model.save("copy", difference_from="tiny-model")),
    ]
    for reason, argument, call in wrong:
        with pytest.raises(UserError) as caught:
            call()
        assert reason in str(caught.value) and argument in str(caught.value) and "--" not in str(caught.value)


def test_relative_paths_that_are_not_there_are_named_with_the_folder_they_were_looked_for_in(in_examples):
    for change in ("annotations=gone.json", "media=gone", "features.video=gone"):
        key, _, place = change.partition("=")
        with pytest.raises(UserError, match=rf"{place} \(looked for in {in_examples}\) do(es)? not exist"):
            vidtune.train("tiny.yaml", out="run", overrides=[f"stages.align.data.0.{change}"], progress=False)
        assert key


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


def test_a_model_is_loaded_with_another_layer_program(in_examples):
    steps = [{"after": 1, "drop": ["video"], "keep": 0.5, "rule": "attention"}]
    model = vidtune.load("tiny-model", layer_program=steps)
    assert model.network.program.steps == steps
    model.save("copy")
    copy = vidtune.load("copy")
    assert copy.network.config.layer_program == steps
    assert copy.answer("What moves?", video="clip.mp4", max_new_tokens=3).finish_reason == "length"
    copy.network.use_layer_program([])
    assert not copy.network.program and "layer_program" not in copy.network.config.to_dict()
    with pytest.raises(UserError, match=r"^layer_program\[0\]: after is 2; layers count .* a step looks like"):
        vidtune.load("tiny-model", layer_program=[{**steps[0], "after": 2}])
    for wrong in ({"after": 1}, "text", [3], [{**steps[0], "drop": ["sound"]}], 3):
        with pytest.raises(UserError, match=r"^layer_program"):
            model.network.use_layer_program(wrong)
    assert model.network.program.steps == steps
