"""Questions about targets in a video, asked together and alone: what they have in common is read once."""

from pathlib import Path

import pytest
from tiny_targets import write_target_checkpoint
from training_world import write_video

from vidtune.checkpoints.load import load_checkpoint
from vidtune.data.sample import MediaRef
from vidtune.generation.engine import AnswerEngine
from vidtune.generation.settings import GenerationSettings, Request
from vidtune.registry import SYSTEMS


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("media") / "red.mp4"
    write_video(path, (200, 30, 30))
    return str(path)


def test_questions_about_targets_share_what_they_have_in_common(video: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(write_target_checkpoint(tmp_path))
    boxes = tuple((2.0 * number, 8.0, 2.0 * number + 8, 24.0) for number in range(6))

    def target(box: tuple[float, ...]) -> tuple[MediaRef, ...]:
        key = (("boxes", (box,)), ("frames", (0.0,)))
        track = (("boxes", boxes), ("frames", tuple(map(float, range(6)))))
        return MediaRef("video", video), MediaRef("box", video, extras=key), MediaRef("track", video, extras=track)

    here, there, alone = target(boxes[0]), target((20.0, 0.0, 31.0, 10.0)), (MediaRef("video", video),)
    asked = [(here, "What is <box> doing?"), (here, "Which colour has <box>?"), (there, "What is <box> doing?")]
    requests = [Request(str(number), *request) for number, request in enumerate([*asked, (alone, "Hi?")])]
    settings, prompt = GenerationSettings(max_new_tokens=6), SYSTEMS["artemis"].dialect.answering_prompt
    found = []
    for together in (True, False):
        with AnswerEngine(
            checkpoint.model, checkpoint.processor, settings, prompt=prompt, workers=0, share_prefix=together
        ) as engine:
            found.append({answer.id: answer for answer in engine.answer(requests)})
    assert [answer.error for answer in found[0].values()] == [None] * 4
    texts = [[one[id].text for id in "0123"] for one in found]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 4
