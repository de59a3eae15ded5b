"""The names of ``vidtune.__all__``: documented, typed, with examples that run; light to import."""

import doctest
import inspect
import subprocess
import sys
import threading

import pytest

import vidtune
from vidtune import extending
from vidtune.api import model, questions, runs, target
from vidtune.registry import REGISTRIES

CALLABLES = [name for name in vidtune.__all__ if callable(getattr(vidtune, name)) and name != "UserError"]


@pytest.fixture
def restored():
    """Registries as they were before the test."""
    before = {registry.kind: set(registry.names()) for registry in REGISTRIES}
    yield
    for registry in REGISTRIES:
        for name in set(registry.names()) - before[registry.kind]:
            registry.unregister(name)


@pytest.mark.parametrize(
    "module, least",
    [(model, 4), (questions, 4), (runs, 4), (extending, 4), (target, 1)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_examples_run(module, least, in_examples, restored):
    results = doctest.testmod(module, extraglobs={"vidtune": vidtune})
    assert results.attempted >= least and results.failed == 0


@pytest.mark.parametrize("name", CALLABLES)
def test_every_public_name_is_documented_and_has_an_example(name):
    value = getattr(vidtune, name)
    documented = [inspect.getdoc(value) or ""]
    if inspect.isclass(value):
        documented += [inspect.getdoc(member) or "" for _, member in inspect.getmembers(value, inspect.isfunction)]
    assert documented[0]
    if value.__module__.startswith(("vidtune.api.", "vidtune.extending")) and inspect.isfunction(value):
        assert any(">>>" in text for text in documented), f"{name} has no example"


def test_unknown_names_are_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        vidtune.lod  # noqa: B018


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, time; begin = time.process_time(); import vidtune; took = time.process_time() - begin; "
        "heavy = {'torch', 'transformers', 'av', 'numpy', 'pydantic'} & set(sys.modules); "
        "assert not heavy, heavy; assert set(vidtune.__all__) <= set(dir(vidtune)); assert took < 1.0, took"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_question_and_a_list_of_questions_have_equal_answers(in_examples):
    model = vidtune.load("tiny-model")
    questions = ["What moves?", "What colour is it?"]
    both = model.answer(questions, video="clip.mp4", max_new_tokens=4)
    assert [str(reply) for reply in both] == [
        str(model.answer(question, video="clip.mp4", max_new_tokens=4)) for question in questions
    ]
    assert [reply.question for reply in both] == questions


def test_threads_share_a_model(in_examples):
    model = vidtune.load("tiny-model")
    questions = ["What moves?", "What colour is it?", "How many are there?"]
    alone = [str(model.answer(question, video="clip.mp4", max_new_tokens=6)) for question in questions]
    found: dict[int, list[str]] = {}

    def ask(number: int) -> None:
        found[number] = [str(model.answer(question, video="clip.mp4", max_new_tokens=6)) for question in questions]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: alone, 1: alone}


def test_threads_load_at_the_same_time(in_examples):
    """Of a model with tied weights, which transformers ties by a method that it replaces while a model is built."""
    run = vidtune.train("tiny.yaml", out="tied", overrides=["language_model.tie_word_embeddings=true"], progress=False)
    failed: list[Exception] = []

    def load() -> None:
        try:
            vidtune.load(run.final)
        except Exception as error:
            failed.append(error)

    for _ in range(3):
        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []


def test_a_conversation_remembers_and_streams_what_it_would_say(in_examples):
    model = vidtune.load("tiny-model")
    said, streamed = (model.chat(video="clip.mp4", max_new_tokens=5) for _ in range(2))
    for text in ("What moves?", "Where to?"):
        assert said.say(text) == "".join(streamed.stream(text))
    assert said.turns == streamed.turns and len(said.turns) == 4
    assert said.turns[0].text.startswith("<video>") and "<video>" not in said.turns[2].text
    with pytest.raises(vidtune.UserError, match="empty"):
        said.say(" ")
    with pytest.raises(vidtune.UserError, match=r"say: takes the text alone; give max_new_tokens= to chat\(...\)"):
        said.say("What moves?", max_new_tokens=4)
    assert len(said.turns) == 4


def test_saved_models_answer_the_same(in_examples):
    model = vidtune.load("tiny-model")
    for format in ("vidtune", "official"):
        folder = model.save(f"saved-{format}", format=format)
        again = vidtune.load(folder, tokenizer="tiny-model")
        assert again.answer("What moves?", video="clip.mp4", max_new_tokens=5) == model.answer(
            "What moves?", video="clip.mp4", max_new_tokens=5
        )


def test_mistakes_are_user_errors(in_examples):
    model = vidtune.load("tiny-model")
    for wrong, message in (
        (lambda: model.answer("What?", video="absent.mp4"), "absent.mp4: no such file"),
        (lambda: model.answer("What?", video="clip.mp4", max_tokens=3), "unknown key 'max_tokens'"),
        (lambda: model.answer("  ", video="clip.mp4"), "the question is empty"),
        (lambda: model.answer("What?", prompt="v9"), "v9"),
        (lambda: vidtune.load("nowhere/at/all"), "no such file or folder"),
        (lambda: vidtune.load("tiny-model", dtype="float3"), "unknown dtype"),
        (lambda: vidtune.evaluate(model, "msvd", data="world", out="eval"), "did you mean 'msvd_qa'"),
    ):
        with pytest.raises(vidtune.UserError, match=message) as caught:
            wrong()
        assert "\n" not in str(caught.value)


def test_a_loaded_model_and_its_folder_have_one_score(in_examples):
    options = {"data": "world", "progress": False}
    by_folder = vidtune.evaluate("tiny-model", "world_qa", out="one", **options)
    by_model = vidtune.evaluate(vidtune.load("tiny-model"), "world_qa", out="two", **options)
    assert by_folder.accuracy == by_model.accuracy and by_folder.interval == by_model.interval
    assert "world_qa" in by_folder._repr_html_()
