"""The protocol record: its hash, its overrides, and what it does to texts."""

import pytest
from qa_sets import stub_protocol

from vidtune.errors import UserError
from vidtune.evaluation.protocol import Protocol


def test_the_hash_follows_every_rule_and_nothing_else():
    protocol = stub_protocol()
    assert protocol.hash == stub_protocol().hash
    assert Protocol.model_validate_json(protocol.model_dump_json()).hash == protocol.hash
    changed = [
        stub_protocol(blind=True),
        stub_protocol(generation={"max_new_tokens": 7}),
        stub_protocol(preprocessing={"num_frames": 16}),
        stub_protocol(question_template="{media}\n{question} Answer briefly."),
        stub_protocol(file_lookup={"prefix": "v_"}),
    ]
    assert len({protocol.hash, *(other.hash for other in changed)}) == 6


def test_overrides_are_merged_key_by_key():
    protocol = stub_protocol().with_overrides({"generation": {"max_new_tokens": 5}, "version": 2}, "test")
    assert protocol.generation.max_new_tokens == 5
    assert protocol.generation.stop == ("</s>",)
    assert protocol.version == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"question_templat": "x"},
            "recipe x: unknown protocol rule 'question_templat'; did you mean 'question_template'",
        ),
        ({"generation": {"max_tokens": 5}}, "recipe x: generation: unknown protocol rule 'max_tokens'"),
        ({"generation": {"max_new_tokens": "many"}}, r"recipe x: generation.max_new_tokens of the world_qa protocol"),
        ({"generation": 5}, r"recipe x: 'generation' takes a mapping"),
    ],
)
def test_a_wrong_override_is_named_with_its_source(overrides, message):
    with pytest.raises(UserError, match=message):
        stub_protocol().with_overrides(overrides, "recipe x")


def test_braces_in_a_question_stay_as_they_are():
    assert stub_protocol().question_text("is {media} {question}?") == "<video>\nis {media} {question}?"


@pytest.mark.parametrize(
    ("text", "clean"),
    [(" one </s>", "one"), ("two</s></s>", "two</s>"), (" three\n", "three"), ("</s>", ""), ("a </s> b", "a </s> b")],
)
def test_one_trailing_stop_string_is_removed(text, clean):
    assert stub_protocol().clean(text) == clean
