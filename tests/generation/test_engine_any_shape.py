"""The answer engine with videos that become different numbers of tokens: equal to answering alone."""

import av
import numpy as np
import pytest
import torch
from tiny_language_models import CONFIGS, byte_tokenizer, sharpen

from vidtune.checkpoints.fit_processor import build_processor
from vidtune.data.sample import MediaRef
from vidtune.generation.engine import AnswerEngine
from vidtune.generation.settings import GenerationSettings, Request
from vidtune.models.video_lm import VideoLM
from vidtune.registry import SYSTEMS

TOWER = {"hidden_size": 16, "image_size": 16, "patch_size": 2, "clip_heads": 2, "frame_heads": 4}
SHAPES = {"wide": (64, 32, 20), "tall": (32, 64, 20), "short": (32, 32, 3)}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for name, (width, height, frames) in SHAPES.items():
        with av.open(str(folder / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=5)
            stream.width, stream.height = width, height
            for _ in range(frames):
                block = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
                pixels = np.kron(block, np.ones((8, 8, 1), np.uint8))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
            container.mux(stream.encode())
    return {name: MediaRef("video", str(folder / f"{name}.mp4")) for name in SHAPES}


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    model = VideoLM(SYSTEMS["video_panda"].architecture.build_config(CONFIGS["llama"], {"video": TOWER}, {}))
    sharpen(model)
    return model.eval(), build_processor(model.config, byte_tokenizer())


def answers(parts, requests, **options):
    settings = GenerationSettings(max_new_tokens=6)
    with AnswerEngine(*parts, settings, prompt="videopanda_v1", workers=0, **options) as engine:
        return {answer.id: answer for answer in engine.answer(requests)}


def test_shared_prefix_equals_answering_alone(parts, clips):
    questions = [(name, text) for name in SHAPES for text in ("Who?", "What moves?")]
    requests = [Request(f"{name} {text}", (clips[name],), text) for name, text in questions]
    shared = answers(parts, requests)
    assert shared == answers(parts, requests, share_prefix=False)
    assert not any(answer.error for answer in shared.values())
    assert len({answer.token_ids for answer in shared.values()}) >= 4


def test_a_file_without_readable_metadata_fails_alone(parts, clips, tmp_path):
    bad = MediaRef("video", str(tmp_path / "gone.mp4"))
    found = answers(parts, [Request("bad", (bad,), "Who?"), Request("good", (clips["wide"],), "Who?")])
    assert "gone.mp4" in found["bad"].error and "does not exist" in found["bad"].error
    assert not found["good"].error
