"""vidtune's models in lmms-eval: order and sharing of requests, messages, settings, mistakes.

The interface of lmms-eval 0.7 stands in: its command is run by tests/real where it is installed.
"""

import sys
import tomllib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from lmms_eval_task import QUESTIONS, TASK, picture, requests_for, write_media
from synthetic_clips import write_clip
from tiny_checkpoint import write_checkpoint

from vidtune.errors import UserError
from vidtune.generation.settings import GenerationSettings
from vidtune.integrations.chat_messages import request_of
from vidtune.integrations.lmms_eval import VidtuneModel, settings_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lmms_eval")
    write_checkpoint(folder / "model")
    return folder


@pytest.fixture(scope="module")
def documents(folder):
    return write_media(folder)


@pytest.fixture(scope="module")
def model(folder):
    return VidtuneModel(str(folder / "model"), device="cpu", workers=0, batch_size="2")


def ask(model, documents, *given, **changes):
    model.task_dict = {TASK: {"test": documents}}
    return model.generate_until(requests_for(documents, *given, **changes))


def test_answers_come_in_the_order_of_the_requests_and_each_clip_is_prefilled_once(model, documents):
    found = ask(model, documents)
    assert (model.stats.encodings, model.stats.prefills) == (2, 2)
    alone = [model.model.answer(one["question"], video=one["video"], max_new_tokens=4) for one in documents]
    assert found == alone and len(set(found)) > 1


def test_requests_of_other_settings_are_answered_apart(model, documents):
    requests = requests_for(documents[:2])
    requests[1].args[2]["max_new_tokens"] = 1
    model.task_dict = {TASK: {"test": documents}}
    long, short = model.generate_until(requests)
    assert [short] == ask(model, documents[1:2], max_new_tokens=1) and [long] == ask(model, documents[:1])


def user(*parts):
    made = [part if isinstance(part, dict) else {"type": "text", "text": part} for part in parts]
    return {"role": "user", "content": made}


def test_media_before_the_text_are_placed_by_the_prompt_format_and_others_stand_where_they_are(tmp_path):
    red, blue = ({"type": "image", "url": picture(colour)} for colour in (9, 200))
    clip = {"type": "video", "url": f"file://{write_clip(tmp_path / 'clip.mp4')}"}
    first = request_of("1", [user(clip, red, "Which?")], tmp_path)
    assert first.question == "Which?" and [ref.stream for ref in first.media] == ["video", "image"]
    assert first.media[0].path == str(tmp_path / "clip.mp4")
    between = request_of("2", [user("This ", red, " or ", blue, "?")], tmp_path)
    assert between.question == "This <image> or <image>?"
    written = request_of("3", [user(red, blue, "<image>\nsaid\n<image>\nWhich?")], tmp_path)
    assert written.question == "<image>\nsaid\n<image>\nWhich?"
    assert between.media == written.media and len(list(tmp_path.glob("*.png"))) == 2


def test_turns_before_the_question_are_its_history(tmp_path):
    red = {"type": "image", "url": picture(9)}
    turns = [user(red, "What?"), {"role": "assistant", "content": "Red."}, {"role": "user", "content": "Sure?"}]
    request = request_of("1", turns, tmp_path)
    assert [(turn.role, turn.text) for turn in request.history] == [("user", "<image>What?"), ("assistant", "Red.")]
    assert request.question == "Sure?" and len(request.media) == 1


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "system", "content": "Be kind."}, user("Why?")], "role 'system'"),
        ([user("Why?"), {"role": "assistant", "content": "So."}], "the last message is not the user's"),
        ([user({"type": "audio", "url": "a.wav"}, "Why?")], "a part of type 'audio'; known are text, image, video"),
        ([user({"type": "video", "url": "/no/clip.mp4"}, "Why?")], r"/no/clip\.mp4: no such file"),
        ([user({"type": "video", "url": [1]}, "Why?")], "holds video list; expected the path"),
    ],
)
def test_a_message_that_cannot_be_asked_names_task_and_document(model, messages, message):
    with pytest.raises(UserError, match=f"task {TASK}, document 0: .*{message}"):
        ask(model, [{}], lambda document: messages)


def test_decoding_is_as_the_task_says():
    greedy = {"max_new_tokens": 16, "temperature": 0, "top_p": None, "num_beams": 1, "until": ["\n\n"]}
    assert settings_of(greedy, use_until=False) == GenerationSettings(max_new_tokens=16)
    assert settings_of(greedy, use_until=True).stop == ("\n\n",)
    assert settings_of({}, False).max_new_tokens == 1024
    drawn = settings_of({"temperature": 0.7, "top_p": 0.9, "seed": 3}, False)
    assert (drawn.do_sample, drawn.temperature, drawn.top_p, drawn.seed) == (True, 0.7, 0.9, 3)
    assert not settings_of({"temperature": 0.7, "do_sample": False}, False).do_sample
    with pytest.raises(UserError, match="num_beams is 5: there is no beam search"):
        settings_of({"num_beams": 5}, False)
    with pytest.raises(UserError, match="unknown generation setting 'beams'"):
        settings_of({"beams": 5}, False)


def test_a_question_without_an_answer_ends_the_run_or_is_empty(folder, documents, model, caplog):
    broken = folder / "broken.mp4"
    broken.write_bytes(b"no video")
    mixed = [documents[0], {"video": str(broken), "question": "What?"}]
    with pytest.raises(UserError, match=rf"1 questions have no answer; first: task {TASK}, document 1: .*broken\.mp4"):
        ask(model, mixed)
    lenient = VidtuneModel(str(folder / "model"), device="cpu", workers=0, on_error="empty")
    first, second = ask(lenient, mixed)
    assert first == ask(model, documents[:1])[0] and second == ""
    assert "document 1" in caplog.text
    with pytest.raises(UserError, match="on_error is 'ignore'"):
        VidtuneModel(str(folder / "model"), on_error="ignore")


def test_fewer_frames_are_a_setting(folder, documents, model):
    few = VidtuneModel(str(folder / "model"), device="cpu", workers=0, max_num_frames=2)
    assert ask(few, documents[:1]) == ask(model, documents[:1])  # the checkpoint takes two
    with pytest.raises(UserError, match=r"media\.video: the model takes"):
        VidtuneModel(str(folder / "model"), device="cpu", max_num_frames=3)


@dataclass(frozen=True)
class ModelManifest:
    """As that of lmms-eval."""

    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


def test_the_entry_point_gives_a_manifest_of_a_chat_model(monkeypatch):
    for name in ("lmms_eval", "lmms_eval.models", "lmms_eval.models.registry_v2"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["lmms_eval.models.registry_v2"].ModelManifest = ModelManifest
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["entry-points"]["lmms_eval.models"]["vidtune"].partition(":")
    manifest = getattr(import_module(module), function)()
    module, _, name = manifest.chat_class_path.rpartition(".")
    assert manifest.model_id == "vidtune" and getattr(import_module(module), name) is VidtuneModel
    assert VidtuneModel.is_simple is False


def test_tasks_of_other_kinds_say_that_they_are_not_there(model):
    for method in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(NotImplementedError, match="vidtune: tasks"):
            method([SimpleNamespace(args=())])
    assert len(QUESTIONS) == 3
