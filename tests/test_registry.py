"""Registries: parts of this package, of other packages by entry points, and of one program by a call."""

import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from vidtune import registry as module
from vidtune.errors import UserError
from vidtune.registry import REGISTRIES, SYSTEMS, Registry


@pytest.fixture
def room(monkeypatch):
    """A room with two parts, and no entry points."""
    parts = type(sys)("room_of_a_test")
    parts.PARTS = {"one": "room_of_a_test:ONE", "two": "room_of_a_test:Two.inner"}  # type: ignore[attr-defined]
    parts.ONE, parts.Two = 1, type("Two", (), {"inner": 2})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "room_of_a_test", parts)
    announced: list[EntryPoint] = []
    monkeypatch.setattr(module, "_announced", lambda: EntryPoints(announced))
    return Registry("part", "room_of_a_test", "vidtune.parts"), announced


def test_parts_load_when_they_are_asked_for(room):
    registry, _ = room
    assert registry.names() == ("one", "two") and not registry.loaded
    assert registry["two"] == 2 and list(registry.loaded) == ["two"]
    assert dict(registry) == {"one": 1, "two": 2} and len(registry) == 2 and "three" not in registry


def test_entry_points_of_other_packages_are_parts(room):
    registry, announced = room
    announced.append(EntryPoint("other", "room_of_a_test:ONE", "vidtune.parts"))
    assert registry["other"] == 1
    assert registry.package("one") == "vidtune" and registry.package("other") == "room_of_a_test"


def test_a_part_that_cannot_be_imported_names_its_package(room):
    registry, announced = room
    announced.append(EntryPoint("broken", "no_such_package.part:X", "vidtune.parts"))
    assert registry["one"] == 1  # a broken package costs its own part only
    with pytest.raises(UserError, match=r"part 'broken' of package no_such_package cannot be loaded"):
        registry["broken"]


def test_one_name_in_two_packages_is_refused(room):
    registry, announced = room
    announced.append(EntryPoint("one", "elsewhere:ONE", "vidtune.parts"))
    with pytest.raises(UserError, match="part 'one' is in package elsewhere and in package vidtune"):
        registry.names()


def test_registered_parts_can_be_taken_back(room):
    registry, _ = room
    registry.register("mine", Registry)
    registry.register("lazy", "room_of_a_test:ONE")
    assert registry["mine"] is Registry and registry["lazy"] == 1 and registry.package("mine") == "test_registry"
    with pytest.raises(UserError, match="part 'mine' exists already"):
        registry.register("mine", Registry)
    registry.unregister("mine")
    assert "mine" not in registry


def test_unknown_names_are_told_the_nearest(room):
    registry, _ = room
    with pytest.raises(UserError, match=r"unknown part 'tow'; did you mean 'two'\?"):
        registry["tow"]
    assert registry.get("tow") is None


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_every_listed_part_loads(registry):
    assert registry is not SYSTEMS or len(registry) >= 3
    for name in registry:
        assert registry[name] is not None and registry.package(name) == "vidtune"


@pytest.mark.parametrize("failure", ["raise ValueError('two\\nlines')", "raise SystemExit(3)", "1 / 0"])
def test_a_package_that_fails_leaves_the_other_parts_usable(room, tmp_path, monkeypatch, failure):
    registry, announced = room
    (tmp_path / "broken_of_a_test.py").write_text(failure)
    monkeypatch.syspath_prepend(tmp_path)
    announced.append(EntryPoint("bad", "broken_of_a_test:PART", "vidtune.parts"))
    with pytest.raises(UserError, match="part 'bad' of package broken_of_a_test cannot be loaded: ") as refused:
        registry["bad"]
    assert "\n" not in str(refused.value)
    with pytest.warns(UserWarning, match="'bad' of package broken_of_a_test .* left out"):
        assert dict(registry.usable()) == {"one": 1, "two": 2}


def test_parts_that_cannot_be_parts_are_refused(room):
    registry, announced = room
    announced.append(EntryPoint("module", "room_of_a_test", "vidtune.parts"))
    with pytest.raises(UserError, match="write 'module:attribute'"):
        registry["module"]
    for name, part in ((None, 1), ("", 1), ("three", None), ("three", "room_of_a_test")):
        with pytest.raises(UserError, match="part"):
            registry.register(name, part)
    with pytest.raises(UserError, match=r"expected vidtune\.systems\.base:System"):
        SYSTEMS.register("wrong", 3)
    registry.register("three", SYSTEMS["video_llava"])
    assert registry.package("three") == __name__.partition(".")[0]


def test_an_entry_point_of_no_kind_of_rule_is_warned_of(room):
    _, announced = room
    announced.append(EntryPoint("samplign.x", "room_of_a_test:ONE", "vidtune.rules"))
    rules = Registry("rule", "room_of_a_test", "vidtune.rules", "sampling.")
    with pytest.warns(UserWarning, match="'samplign.x' of package room_of_a_test .* is ignored"):
        assert rules.names() == ("one", "two")


def test_a_saved_model_names_the_package_of_each_part_from_outside(tmp_path):
    import vidtune
    from vidtune.models.config import VideoLMConfig
    from vidtune.models.towers.clip import ClipTowerConfig
    from vidtune.registry import TOWERS

    def config():
        towers = {"seen": {"type": "from_outside"}, "known": {"type": "clip"}}
        return VideoLMConfig(text_config={"model_type": "llama"}, towers=towers)

    vidtune.register_tower("from_outside", ClipTowerConfig)
    try:
        config().save_pretrained(tmp_path)
        assert VideoLMConfig.from_pretrained(tmp_path).to_dict()["packages"] == {
            "tower type from_outside": "test_registry"
        }
    finally:
        TOWERS.unregister("from_outside")
    with pytest.raises(UserError, match="tower type from_outside is of the package test_registry, which is not here"):
        VideoLMConfig.from_pretrained(tmp_path)
    known = VideoLMConfig(text_config={"model_type": "llama"}, towers={"known": {"type": "clip"}})
    assert "packages" not in known.to_dict()


def test_a_missing_package_is_named_with_the_pip_command():
    with pytest.raises(UserError, match=r"resize rule squash is of the package sixth, .* pip install sixth==0\.3"):
        module.require_packages({"resize rule squash": "sixth 0.3"})
    module.require_packages({"resize rule crop": "sixth 0.3", "a later kind of part x": "sixth 0.3"})
