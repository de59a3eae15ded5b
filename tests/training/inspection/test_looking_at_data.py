"""`vidtune data show` and `vidtune data stats`: what the model sees of a sample, what the data of a recipe hold."""

import json
import re
import shutil

import numpy as np
import pytest
from training_world import conversation

from vidtune.cli.main import run as vidtune
from vidtune.errors import UserError
from vidtune.recipe.files import dump_recipe
from vidtune.training.inspection.data_stats import recipe_stats
from vidtune.training.inspection.sample_page import write_sample_page
from vidtune.training.inspection.shown_sample import shown_sample

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def own(tmp_path, media):
    """A media folder of this test alone."""
    for name in ("red.mp4", "red.png"):
        shutil.copy(media / name, tmp_path / name)
    return tmp_path


def recipe_of(make_recipe, folder, samples):
    (folder / "own.json").write_text(json.dumps(samples))
    return make_recipe(data=[{"annotations": str(folder / "own.json"), "media": str(folder)}], workers=0)


def test_a_sample_is_shown_as_the_model_sees_it(make_recipe, own):
    samples = [
        conversation("<video>\nWhat moves?", f"a red box. {EVIL}", id="a", video="red.mp4"),
        conversation("<image>\nWhich?", "red.", id="b", image="red.png"),
        conversation("<video>\nWhat?", "a box.", id="b", video="gone.mp4"),
    ]
    recipe = recipe_of(make_recipe, own, samples)
    shown = shown_sample(recipe, "a", frames=3)
    (item,) = shown.items
    assert (shown.id, shown.stage, item.stream, item.frames, len(item.pictures)) == ("own:0", "align", "video", 4, 3)
    assert item.shape[:2] == (3, 4) and [label for _, label in item.pictures] == ["0.00 s", "0.30 s", "0.50 s"]
    assert np.asarray(item.pictures[0][0]).std() > 10  # grey levels of the frame, not normalised values
    learned = "".join(token.text for span in shown.spans for token in span.tokens if span.kind == "supervised")
    assert learned.replace(" ", "").startswith("aredbox.<script>") and "moves" not in learned
    kinds = [span.kind for span in shown.spans]
    assert kinds == ["text", "video", "text", "supervised"] and shown.media_tokens == item.num_tokens
    page = write_sample_page(shown, own / "page.html").read_text()
    assert "<script" not in page and page.count('<img src="data:image/jpeg') == 3
    assert not re.search(r"https?://|src=\"(?!data:)", page) and "default-src 'none'" in page
    assert f"1 video × {item.num_tokens}" in page and "&lt;script&gt;alert(1)" in page
    for wanted, said in (("c", "no sample 'c'"), ("b", "2 samples have the id 'b'; name one of own:1, own:2")):
        with pytest.raises(UserError, match=said):
            shown_sample(recipe, wanted)
    assert shown_sample(recipe, "own:1").items[0].pictures[0][1] == ""
    assert shown_sample(recipe, "own:2").items[0].problem


def test_moments_boxes_and_files_that_cannot_be_read_are_shown(make_recipe, own):
    (own / "broken.mp4").write_bytes((own / "red.mp4").read_bytes()[:900])
    boxes = {"video": {"boxes": [[2, 8, 10, 24], [4, 8, 12, 24]], "frames": [0, 2]}}
    samples = [
        conversation("<video>\nWhat?", "a box.", id="boxes", video="red.mp4") | {"extras": boxes, "start": 0.1},
        conversation("<video>\nWhat?", "a box.", id="broken", video="broken.mp4"),
    ]
    recipe = recipe_of(make_recipe, own, samples)
    (item,) = shown_sample(recipe, "boxes").items
    assert [label for _, label in item.boxed] == ["frame 0", "frame 2"] and ("part", "0.1 s to the end") in item.facts
    green = np.asarray(item.boxed[0][0])[8, 2:10]
    assert (green[:, 1] > 180).all()
    (item,) = shown_sample(recipe, "broken").items
    assert item.problem and not item.pictures
    (own / "recipe.yaml").write_text(dump_recipe(recipe))
    page = own / "page.html"
    assert vidtune(["data", "show", str(own / "recipe.yaml"), "--sample", "broken", "--out", str(page)]) == 0
    assert "cannot be read: " in page.read_text()


def test_data_are_counted_and_compared_by_content(make_recipe, own, capsys):
    shutil.copy(own / "red.mp4", own / "copy.mp4")
    samples = [
        conversation("<video>\nWhat moves?", "a red box.", video="red.mp4"),
        conversation("<video>\nWhat  moves?", "a red box.", video="copy.mp4"),  # the same words about the same content
        conversation("<video>\nWhat moves?", "a red box.", video="red.mp4") | {"start": 0.1},
        conversation("<image>\nWhich?", "red.", image="red.png"),
        conversation("Say hello.", "hello."),
        conversation("<video>\nWhat?", "a box.", video="gone.mp4"),
    ]
    recipe = recipe_of(make_recipe, own, samples)
    (own / "test").mkdir()
    shutil.copy(own / "copy.mp4", own / "test" / "renamed.mp4")
    shutil.copy(own / "red.png", own / "test" / "picture.png")
    (own / "test" / "picture.png").open("ab").write(b"x")
    tests = {"held_out": {"renamed": str(own / "test/renamed.mp4"), "picture": str(own / "test/picture.png")}}
    (found,) = recipe_stats(recipe, tests)
    assert (found.samples, len(found.tokens), list(found.unreadable)) == (6, 6, [str(own / "gone.mp4")])
    assert found.kinds == {"video": 2, "image": 1} and found.sizes == {(32, 32): 2, (30, 20): 1}
    assert found.seconds.tolist() == pytest.approx([0.6, 0.6])
    assert found.same_files == [[str(own / "red.mp4"), str(own / "copy.mp4")]]
    assert found.same_conversations == [["own:0", "own:1"]]
    assert found.shared == {"held_out": {"renamed": str(own / "red.mp4")}}
    assert (found.media_tokens > 0).tolist() == [True, True, True, True, False, True] and (found.supervised > 0).all()
    line = {"id": "q", "video": "renamed.mp4", "question": "What?", "answer": "a box"}
    (own / "test" / "mine.jsonl").write_text(json.dumps(line))
    (own / "recipe.yaml").write_text(dump_recipe(recipe))
    command = ["data", "stats", str(own / "recipe.yaml")]
    assert vidtune([*command, "--against", str(own / "test" / "mine.jsonl")]) == 2
    shown = capsys.readouterr()
    assert "1 of 1 media of " in shown.out and "renamed.mp4 is " in shown.out and "leave them out" in shown.err
    assert "1 files that are there twice" in shown.out and "2 video, 1 image" in shown.out
    assert vidtune([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["same_conversations"] == [["own:0", "own:1"]]
