"""The server over real HTTP, asked by the official client: answers as on the command line, media worked on once."""

import base64
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import openai
import pytest
from served_world import asking, served

import vidtune
from vidtune.foreign.documents import parse_json


@pytest.fixture(scope="module")
def server(model, folder):
    with served({"tiny": model, "other": model}, folder) as found:
        yield found


@pytest.fixture
def ask(server):
    client = server.client()

    def ask(messages, **options):
        return client.chat.completions.create(messages=messages, **{"model": "tiny", "max_tokens": 8, **options})

    yield ask
    client.close()


def text_of(stream):
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_models_are_listed_by_name(server):
    with server.client() as client:
        assert [one.id for one in client.models.list()] == ["tiny", "other"]
        assert client.models.retrieve("other").id == "other"


def test_answers_equal_those_of_the_library_whatever_is_in_flight(ask, model, folder):
    questions = [f"What moves, number {number}?" * (1 + number % 3) for number in range(6)]
    expected = {
        (name, text): str(reply)
        for name in ("a.mp4", "b.mp4")
        for text, reply in zip(questions, model.answer(questions, video=folder / name, max_new_tokens=8), strict=True)
    }
    with ThreadPoolExecutor(12) as pool:
        found = pool.map(lambda key: ask(asking(key[1], key[0])), expected)
        plain = {key: reply.choices[0].message.content for key, reply in zip(expected, found, strict=True)}
        streams = pool.map(lambda key: text_of(ask(asking(key[1], key[0]), stream=True)), expected)
        streamed = dict(zip(expected, streams, strict=True))
    assert plain == expected
    assert streamed == expected
    assert len(set(expected.values())) > 3


def test_the_second_turn_neither_decodes_nor_encodes_nor_prefills_the_video(ask, server, model, folder):
    shutil.copy(folder / "a.mp4", folder / "turns.mp4")
    talk = model.chat(video=folder / "a.mp4", max_new_tokens=8)
    messages = asking("What moves?", "turns.mp4")
    first = ask(messages)
    assert first.choices[0].message.content == str(talk.say("What moves?"))
    before = server.work()
    messages += [{"role": "assistant", "content": first.choices[0].message.content}]
    second = ask([*messages, {"role": "user", "content": "And then?"}])
    assert server.work() == before
    assert second.choices[0].message.content == str(talk.say("And then?"))
    third = [
        *messages,
        {"role": "user", "content": "And then?"},
        {"role": "assistant", "content": second.choices[0].message.content},
        {"role": "user", "content": "What was first?"},
    ]
    last = ask(third)
    assert last.choices[0].message.content == str(talk.say("What was first?"))
    for earlier, later in ((first, second), (second, last)):
        # all of the earlier turn but the place where its answer, written as text, becomes other tokens
        assert later.usage.prompt_tokens_details.cached_tokens >= earlier.usage.prompt_tokens - 1
        assert later.usage.prompt_tokens > earlier.usage.prompt_tokens


def test_a_video_of_a_later_turn_is_read_behind_the_kept_prefix(ask, server, model, folder):
    messages = asking("What moves?", "a.mp4")
    reply = ask(messages).choices[0].message.content
    ask(asking("Whose?", "b.mp4"))
    before = server.work()
    third = [*messages, {"role": "assistant", "content": reply}, *asking("Which is faster?", "b.mp4")]
    answer = ask(third).choices[0].message.content
    after = server.work()
    assert [later - earlier for earlier, later in zip(before, after, strict=True)] == [0, 0, 1]
    with model_talk(model, folder) as talk:
        talk.say("What moves?")
        assert answer == talk.later("Which is faster?", folder / "b.mp4")


class model_talk:
    """A conversation in which a later turn brings a video, asked of the answer engine."""

    def __init__(self, model, folder):
        from vidtune.data.sample import MediaRef
        from vidtune.generation.conversation import Conversation
        from vidtune.generation.engine import AnswerEngine
        from vidtune.generation.settings import GenerationSettings

        prompt = vidtune.registry.SYSTEMS[model.system].dialect.answering_prompt
        settings = GenerationSettings(max_new_tokens=8)
        self.engine = AnswerEngine(model.network, model.processor, settings, prompt=prompt, workers=0)
        self.talk, self.ref = Conversation(self.engine), MediaRef
        self.first = MediaRef("video", str((folder / "a.mp4").resolve()))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.engine.close()

    def say(self, text):
        return self.talk.ask(text, [self.first]).text

    def later(self, text, path: Path):
        return self.talk.ask(text, [self.ref("video", str(path.resolve()))]).text


def test_base64_data_is_known_by_its_content(ask, server, folder):
    address = "data:video/mp4;base64," + base64.b64encode((folder / "b.mp4").read_bytes()).decode()
    expected = ask(asking("What moves?", "b.mp4")).choices[0].message.content
    assert ask(asking("What moves?", address)).choices[0].message.content == expected
    before = server.work()
    assert ask(asking("What moves?", address)).choices[0].message.content == expected
    assert server.work() == before


def test_choices_seed_stop_logprobs_and_usage(ask, model, folder):
    messages = asking("What moves?", "a.mp4")
    drawn = ask(messages, n=3, seed=7, temperature=1.5, top_p=0.9)
    texts = [choice.message.content for choice in drawn.choices]
    again = ask(messages, n=3, seed=7, temperature=1.5, top_p=0.9)
    assert [choice.message.content for choice in again.choices] == texts and len(set(texts)) > 1
    asked = model.answer("What moves?", video=folder / "a.mp4", max_new_tokens=8, seed=7, temperature=1.5, top_p=0.9)
    assert texts[0] == str(asked)
    assert drawn.usage.completion_tokens == 24

    plain = ask(messages, logprobs=True, top_logprobs=3, max_tokens=5)
    told = plain.choices[0].logprobs.content
    assert len(told) == 5 and all(one.logprob == pytest.approx(one.top_logprobs[0].logprob) for one in told)
    assert all(len(one.top_logprobs) == 3 and one.logprob <= 0 for one in told)
    streamed = [chunk for chunk in ask(messages, logprobs=True, max_tokens=5, stream=True) if chunk.choices]
    logprobs = [
        one.logprob for chunk in streamed if chunk.choices[0].logprobs for one in chunk.choices[0].logprobs.content
    ]
    assert logprobs == pytest.approx([one.logprob for one in told])

    whole = ask(messages).choices[0].message.content
    cut = ask(messages, stop=[whole[2:4]])
    assert cut.choices[0].message.content == whole[: whole.index(whole[2:4])].strip()
    assert cut.choices[0].finish_reason == "stop"
    last = list(ask(messages, stream=True, stream_options={"include_usage": True}))[-1]
    assert last.choices == [] and last.usage.completion_tokens == 8


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"model": "absent"}, "the model 'absent' does not exist"),
        ({"messages": []}, "messages"),
        ({"messages": asking("Who?", "absent.mp4")}, "no such media file"),
        ({"messages": asking("Who?", "../a.mp4")}, "not a path below the media root"),
        ({"messages": asking("Who?", "file:///etc/passwd")}, "is not read"),
        ({"messages": asking("Who?", "http://127.0.0.1/a.mp4")}, "nothing is fetched"),
        ({"messages": asking("Who?", "data:video/mp4;base64,AAAA")}, "the file"),
        ({"messages": asking(" ", "a.mp4")}, "question is empty"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "last message is not the user's"),
        ({"messages": [{"role": "user", "content": [{"type": "audio", "audio": 1}]}]}, "type"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, "no room for an answer"),
        ({"extra_body": {"surprise": 1}}, "unknown key surprise"),
        ({"extra_body": {"tools": [{}]}}, "tools is not supported"),
        ({"extra_body": {"prompt": "absent"}}, "absent"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 1e-40}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 1000}, "n:"),
    ],
)
def test_a_bad_request_costs_one_clear_error(ask, options, part):
    given = {"messages": asking("Who?", "a.mp4"), "stream": True, **options}
    with pytest.raises(openai.APIStatusError) as found:
        ask(given.pop("messages"), **given)
    error = found.value.body
    assert (
        part in error["message"] and "\n" not in error["message"] and error["type"] and "/tmp" not in error["message"]
    )
    assert found.value.status_code == (404 if options.get("model") else 400)


def test_a_text_file_is_no_video(ask, folder):
    (folder / "words.mp4").write_text("These are words, and no video at all. " * 20)
    with pytest.raises(openai.BadRequestError, match=r"content\[0\].*'words\.mp4'"):
        ask(asking("Who?", "words.mp4"))


def test_a_system_message_takes_the_place_of_the_system_line(ask, model):
    said = ask([{"role": "system", "content": "Say nothing but numbers."}, {"role": "user", "content": "Hello."}])
    plain = ask([{"role": "user", "content": "Hello."}])
    assert said.usage.prompt_tokens != plain.usage.prompt_tokens
    assert plain.choices[0].message.content == str(model.answer("Hello.", max_new_tokens=8))


def test_metrics_and_health(server, ask):
    with pytest.raises(openai.NotFoundError):
        ask(asking("Who?"), model="absent")

    def metrics():
        with urlopen(f"{server.url}/metrics") as reply:
            return reply.read().decode()

    deadline = time.monotonic() + 60
    while "vidtune_requests_in_flight 0.0" not in (text := metrics()):  # a client has its answer before that
        assert time.monotonic() < deadline
    assert 'vidtune_problems_total{status="404"}' in text and 'vidtune_encodings_total{model="tiny"}' in text
    with urlopen(f"{server.url}/health") as reply:
        assert parse_json(reply.read())["status"] == "ok"
