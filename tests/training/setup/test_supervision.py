"""A stage that can learn nothing is refused before it starts, with the reasons; samples that teach nothing are said."""

import json

import pytest
from training_world import conversation, mixed_samples

from vidtune.errors import UserError
from vidtune.training.inspection.dry_run import forecast
from vidtune.training.log import flat_numbers
from vidtune.training.run import train_stages as train
from vidtune.training.setup.stage import set_up
from vidtune.training.trackers.console import summary

LONG = [conversation("Say it. " * 40, "it."), conversation("Count. " * 40, "one two.")]
ASKED_ONLY = [{"conversations": [{"from": "human", "value": "Say hello."}]}]
EMPTY = [conversation("Say nothing.", "")]


@pytest.mark.parametrize(
    ("samples", "changes", "reason"),
    [
        (LONG, {"max_length": 64}, r"every answer is cut off by max_length \(64\): 2"),
        (LONG, {"max_expanded_length": 64}, r"every answer is cut off by max_expanded_length \(64\): 2"),
        (ASKED_ONLY * 3, {}, "no turn of the assistant: 3"),
        ([*EMPTY, *LONG], {"max_length": 30}, "every answer is cut off by .*: 2, every answer is empty: 1"),
    ],
)
def test_a_stage_without_a_supervised_token_is_refused_with_the_reasons(
    make_recipe, tmp_path, samples, changes, reason
):
    recipe = make_recipe(samples, train={"language_model": 1e-3}, **changes)
    expected = rf"stage 'align': none of its {len(samples)} samples has a supervised token, .*: {reason}.*; the first: "
    with pytest.raises(UserError, match=expected):
        train(recipe, tmp_path / "out", progress=False)
    with pytest.raises(UserError, match=expected):
        list(forecast(recipe))
    assert not list((tmp_path / "out").rglob("final"))


def test_a_planned_part_without_a_supervised_token_is_refused(make_recipe, tmp_path):
    samples = [*LONG, conversation("Say hello.", "hello.")]
    for seed in range(8):  # an order in which the sample that can be learnt from comes last
        recipe = make_recipe(samples, train={"language_model": 1e-3}, max_length=64, global_batch_size=1, max_steps=1)
        try:
            found = next(iter(forecast(recipe.model_copy(update={"seed": seed}))))
            assert found.supervised
        except UserError as error:
            assert "none of the samples of its 1 steps has a supervised token (every answer is cut off" in str(error)
            return
    raise AssertionError("the order never began with a sample that teaches nothing")


def test_samples_that_teach_nothing_are_said_and_the_others_train(make_recipe, tmp_path, capfd):
    samples = [*LONG, conversation("Say hello.", "hello.")]
    recipe = make_recipe(samples, train={"language_model": 1e-3}, max_length=64, global_batch_size=1, epochs=1)
    train(recipe, tmp_path / "out", progress=False)
    said = "2 of 3 samples have no supervised token and train nothing: every answer is cut off by max_length (64): 2;"
    assert said in capfd.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "out/align/log.jsonl").read_text().splitlines()]
    assert sorted(line["supervised_tokens"] > 0 for line in lines) == [False, False, True]
    for line in lines:
        assert (line["loss"] is None) == (not line["supervised_tokens"])
        assert summary(line).startswith("no supervised token" if line["loss"] is None else "loss ")
        assert ("loss" in flat_numbers(line)) == (line["loss"] is not None)


def test_parts_that_no_sample_reaches_are_said_or_refused(make_recipe, tmp_path):
    videos = [sample for sample in mixed_samples() if "video" in sample and "image" not in sample]
    texts = [conversation("Say hello.", "hello.")]
    with pytest.raises(UserError, match=r"trains connectors\.visual, but no sample has an item .*nothing would be tr"):
        list(forecast(make_recipe(texts)))
    with pytest.raises(UserError, match=r"trains towers\.image, but no sample has an item"):
        list(forecast(make_recipe(videos, train={"towers.image": 1e-3})))
    setup = set_up(make_recipe(videos, train={"towers.*": 1e-3}), 0, tmp_path, progress=False)
    assert setup.data.notes == [
        "trains towers.image, but no sample has an item of its streams: only weight decay changes it; "
        "leave it out of train, or add such data"
    ]
