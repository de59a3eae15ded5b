"""YAML as it is read: scalars of YAML 1.1, places, merges, and files that are made to break a reader."""

import math
import tracemalloc

import pytest

from vidtune.errors import UserError
from vidtune.foreign import yaml_document
from vidtune.foreign.yaml_document import parse_yaml, read_yaml

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)
MERGE_BOMB = "a: &a {k: v}\n" + "".join(
    f"{name}: &{name} {{<<: [{','.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)

MERGE_CHAIN = "m0: &m0 {x: 1}\n" + "".join(f"m{n}: &m{n} {{<<: *m{n - 1}}}\n" for n in range(1, 500)) + "<<: *m499\n"
ALIAS_CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 120))
MERGE_WIDE = "a: &a {" + ", ".join(f"k{n}: 1" for n in range(300)) + "}\nb: {<<: [" + "*a, " * 99 + "*a]}\n"
MERGE_PILE = "m0: &m0 {x: 1}\n" + "".join(f"m{n}: &m{n} {{<<: *m{n - 1}, k{n}: 1}}\n" for n in range(1, 300))


def value(text: str, **variables: str):
    return parse_yaml(text, "x.yaml", variables).require_set().value


def refusal(text: str) -> str:
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "x.yaml", {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("yes", True),
        ("no", False),
        ("on", True),
        ("Off", False),
        ("true", True),
        ("y", "y"),
        ("n", "n"),
        ("~", None),
        ("", None),
        ("null", None),
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        (".5e3", 500.0),
        ("-.5e-3", -0.0005),
        ("1.e3", 1000.0),
        ("2.0e-5", 2e-5),
        ("1_000", 1000),
        ("1_0e3", "1_0e3"),
        ("010", 8),
        ("0o10", "0o10"),
        ("08", "08"),
        ("0x1F", 31),
        ("0b11", 3),
        ("1:30", 90),
        ("1:30.5", 90.5),
        (".inf", math.inf),
        ("1.5", 1.5),
        ("'1e-5'", "1e-5"),
        ('"yes"', "yes"),
        ("4bit", "4bit"),
    ],
)
def test_scalars_are_those_of_yaml_1_1_and_numbers_with_an_exponent(written, read):
    (item,) = value(f"[{written}]") or [None] if written else [value("x: ")["x"]]
    assert (type(item), item) == (type(read), read)
    if written and not written.startswith(("'", '"')):
        assert value("x: ${NAME}", NAME=written)["x"] == read
        assert value("x: '${NAME}'", NAME=written)["x"] == written


def test_keys_are_text():
    assert value("{yes: 1, 1: 2, 1e-5: 3, ${NAME}: 4}", NAME="on") == {"yes": 1, "1": 2, "1e-5": 3, "on": 4}


def test_places_are_line_and_column():
    document = parse_yaml("a: 1\nb:\n  - {c: 2}\n  - d: ${X}\n", "x.yaml", {})
    assert document.place(("a",)) == "x.yaml:1:1"
    assert document.place(("b", 0)) == "x.yaml:3:5"
    assert document.place(("b", 0, "c")) == "x.yaml:3:6"
    assert document.place(("b", 1, "d", "deeper")) == "x.yaml:4:5"
    assert document.unset[("b", 1, "d")].startswith("x.yaml:4:8: the variable X")


def test_merged_entries_come_first_and_own_entries_replace_them():
    text = "a: &a {x: 1, y: 1}\nb: &b {x: 2, z: 2}\nc: {y: 3, <<: [*a, *b], w: 4}\n"
    assert value(text)["c"] == {"x": 1, "z": 2, "y": 3, "w": 4}
    assert list(value(text)["c"]) == ["x", "z", "y", "w"]
    assert parse_yaml(text, "x.yaml").place(("c", "z")) == "x.yaml:2:14"
    assert value("a: &a {<<: *a, x: 1}")["a"] == {"x": 1}


def test_an_alias_is_a_copy_so_that_an_override_changes_one_place():
    read = value("a: &a {x: 1}\nb: *a\n")
    assert read["a"] == read["b"]
    assert read["a"] is not read["b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: {a: 1, a: 2}\n", "x.yaml:2:11: the key 'a' is given twice, first in line 2"),
        ("a: &a [*a]\n", "x.yaml:1:4: an alias stands inside its own anchor"),
        ("a: *b\n", "x.yaml:1:4: not valid YAML: found undefined alias"),
        ("{a: 1}: 2\n", "x.yaml:1:1: a key must be a plain word"),
        ("a: 1\nb: {<<: 3}\n", "x.yaml:2:9: << merges a mapping or a list of mappings"),
        ("b: {<<: [3]}\n", "x.yaml:1:10: << merges a mapping or a list of mappings"),
        ("a: !!python/object/apply:os.system [ls]", "x.yaml:1:4: the tag 'tag:yaml.org,2002:python/object/apply:os"),
        ("a: !!python/name:os.system ''", "x.yaml:1:4: not a valid value"),
        ("system: video_llava\0\n", "x.yaml:1:20: not valid YAML: the character U+0000 is not allowed"),
        ("a: 1\nb: \ue000\ue100\n", "x.yaml:2:4: not valid YAML: the character U+E000 is not allowed"),
        ("a: " + "[" * 3000 + "]" * 3000, "more than 100 nested levels"),
        ("a: " + "[" * 200 + "]" * 200, "more than 100 nested levels"),
        (BOMB, "more than 20,000 values, counting those that aliases and merge keys repeat"),
        (MERGE_CHAIN, "more than 100 nested levels of merge keys"),
        (ALIAS_CHAIN, "more than 100 nested levels"),
        (MERGE_WIDE, "more than 20,000 values"),
        (MERGE_PILE, "more than 20,000 values"),
        ("a: !!timestamp x", "x.yaml:1:4: not a valid value: 'x'"),
        ("a: !!bool x", "x.yaml:1:4: not a valid value: 'x'"),
        ("a: !!int ''", "x.yaml:1:4: not a valid value: ''"),
        ("a: !!float ''", "x.yaml:1:4: not a valid value: ''"),
        ("a: !!set {x, y}", "x.yaml:1:4: the tag 'tag:yaml.org,2002:set' is not read"),
        ("a: !pairs [x, y]", "x.yaml:1:4: the tag '!pairs' is not read"),
        ("a: !!map x", "x.yaml:1:4: not a valid value: 'x'"),
        ("a: 1" + ":59" * 500, "x.yaml:1:4: not a valid value: '1:59"),
        ("a: " + "1" * 5000, "x.yaml:1:4: not a valid value: '1111"),
    ],
    ids=lambda text: text[:20],
)
def test_files_that_cannot_be_a_recipe_are_refused_in_one_line(text, words):
    message = refusal(text)
    assert message.startswith("x.yaml:")
    assert words in message


def test_values_are_counted_while_they_are_parsed(monkeypatch):
    monkeypatch.setattr(yaml_document, "MAX_VALUES", 100)
    monkeypatch.setattr(yaml_document._Builder, "build", lambda *_: pytest.fail("parsed to its end"))
    assert "x.yaml:1:400: not valid YAML: more than 20,000 values" in refusal("[" + "x," * 1000 + "]")


def test_aliases_that_repeat_aliases_cost_no_memory():
    tracemalloc.start()
    refusal(BOMB)
    assert len(value(MERGE_BOMB)["m"]) == 1
    assert tracemalloc.get_traced_memory()[1] < 200 * 2**20
    tracemalloc.stop()


def test_a_file_that_is_too_long_or_no_text_is_not_parsed(tmp_path):
    file = tmp_path / "x.yaml"
    for content, words in [
        (b" " * (2**22 + 1), "4,194,305 bytes, more than"),
        (b"a: 1\nb: \xe9", "line 2: not UTF-8 text"),
    ]:
        file.write_bytes(content)
        with pytest.raises(UserError, match=words):
            read_yaml(file)
