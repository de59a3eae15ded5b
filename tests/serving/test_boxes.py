"""Boxes over HTTP: the answers are those of the library, also in a second turn that names the box again."""

import openai
import pytest
from served_world import asking, served
from tiny_targets import write_target_checkpoint

import vidtune

BOX = {"box": [8, 8, 40, 40], "seconds": 0.2}
VIDEO = {"type": "video_url", "video_url": {"url": "a.mp4", "box": BOX}}


@pytest.fixture(scope="module")
def targeted(tmp_path_factory):
    return vidtune.load(write_target_checkpoint(tmp_path_factory.mktemp("boxes")), device="cpu", dtype="float32")


def test_answers_about_a_box_equal_those_of_the_library(targeted, model, folder):
    talk = targeted.chat(
        video=folder / "a.mp4", target=vidtune.Target(BOX["box"], seconds=BOX["seconds"]), max_new_tokens=6
    )
    with served({"boxes": targeted, "plain": model}, folder) as server, server.client() as client:

        def say(messages, name="boxes"):
            reply = client.chat.completions.create(model=name, messages=messages, max_tokens=6)
            return reply.choices[0].message.content

        first = asking("What does <box> do?", VIDEO)
        answer = say(first)
        assert answer == str(talk.say("What does <box> do?"))
        before = server.work()
        second = [*first, {"role": "assistant", "content": answer}, {"role": "user", "content": "Where is <box>?"}]
        assert say(second) == str(talk.say("Where is <box>?"))
        assert server.work()[0] - before[0] == 0
        with pytest.raises(openai.BadRequestError, match="takes no boxes"):
            say(first, "plain")
        away = {"type": "video_url", "video_url": {"url": "a.mp4", "box": {**BOX, "seconds": 99.0}}}
        with pytest.raises(openai.BadRequestError, match=r"content\[0\]"):
            say(asking("What does <box> do?", away))
